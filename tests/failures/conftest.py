"""The fixtures of the workloads' tests."""

from tests.workloads.shelf import place, shelf  # noqa: F401
