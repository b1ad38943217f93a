"""What runs in the pods and on a laptop: ``python -m workloads.<noun> FILE``."""

from workloads.system.early_exit import obey_sigterm

obey_sigterm()
