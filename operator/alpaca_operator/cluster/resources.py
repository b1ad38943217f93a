"""What the operator knows of by kind, as the API server addresses it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from alpaca_operator.api import GROUP, KINDS, PLURALS, VERSION


@dataclass(frozen=True, slots=True)
class APIResource:
    """A type of objects, as the API server addresses it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, part: str | None = None) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(["namespaces", quote(namespace)] if namespace else []), self.plural]
        return "/".join([*parts, *([quote(name, safe=":")] if name else []), *([part] if part else [])])


RESOURCES = {kind: APIResource(GROUP, VERSION, PLURALS[kind], kind) for kind in KINDS}
JOBS = APIResource("batch", "v1", "jobs", "Job")
PODS = APIResource("", "v1", "pods", "Pod")
DEPLOYMENTS = APIResource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = APIResource("apps", "v1", "replicasets", "ReplicaSet")
SERVICES = APIResource("", "v1", "services", "Service")
BUDGETS = APIResource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
ROUTES = APIResource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
JOB_SETS = APIResource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
NETWORK_POLICIES = APIResource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
EVENTS = APIResource("events.k8s.io", "v1", "events", "Event")
LEASES = APIResource("coordination.k8s.io", "v1", "leases", "Lease")

CHILDREN = (JOBS, DEPLOYMENTS, REPLICA_SETS, SERVICES, BUDGETS, PODS)
"""What belongs to our resources, and is watched. ReplicaSets stand between a Deployment and its pods: by them its pods are known."""
OPTIONAL = (ROUTES, JOB_SETS, NETWORK_POLICIES)
"""What may belong to them in a cluster that has it, and is not watched by kopf: a watch on what does not exist would be no watch, and policies
are few and nobody waits for them."""
ABSENT = (403, 404)
"""How the API server answers for a kind that it does not have, or that we may not read: an older role may lack it."""
WATCHED = {api.kind: api for api in (*RESOURCES.values(), *CHILDREN)}
APIS = WATCHED | {api.kind: api for api in OPTIONAL}
"""What the operator knows of, by kind."""
