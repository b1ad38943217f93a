"""What runs in the pods and on a laptop: ``python -m workloads.<noun> FILE``."""

import os

from workloads.system.early_exit import obey_sigterm

obey_sigterm()
# Pydantic looks for plugins in the metadata of every installed package, at each start; ours reads no one's.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
