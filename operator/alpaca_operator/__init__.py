"""The Literary Alpaca operator: one reconcile for every kind, over typed resources."""

__version__ = "0.1.0"
