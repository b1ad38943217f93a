"""What /metrics tells, besides the process's own figures. Names are API: dashboards and alerts in manifests/monitoring read them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

QUEUE_DEPTH = Gauge("alpaca_queue_depth", "Resources waiting for a worker.")
RECONCILES = Counter("alpaca_reconciles_total", "Looks at a resource, by how they ended.", ["kind", "outcome"])
RECONCILE_SECONDS = Histogram(
    "alpaca_reconcile_seconds",
    "Duration of a look at a resource, its API calls included.",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30),
)
API_WRITES = Counter("alpaca_api_writes_total", "Writes to the API server.", ["verb", "resource"])
JOBS = Gauge("alpaca_jobs", "Jobs by kind and the reason of their Ready condition.", ["kind", "state"])
LEADING = Gauge("alpaca_leading", "1 while this replica holds the Lease.")
SCRAPES = Counter(
    "alpaca_progress_reads_total", "Questions to pods for their progress, by how they ended.", ["outcome"]
)
RESYNC_REPAIRS = Counter(
    "alpaca_resync_repairs_total", "What a watch had missed and a resync put right.", ["kind", "what"]
)
