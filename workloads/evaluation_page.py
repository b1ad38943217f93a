"""The page of an evaluation's report: one file, nothing loaded from anywhere, everything that a model wrote escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.evaluation_report import Report


def render(report: Report) -> str:
    return f"<!doctype html><title>{html.escape(report.content['name'])}</title>"
