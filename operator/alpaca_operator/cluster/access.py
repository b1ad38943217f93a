"""Where the API server is, and how to log in."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration


async def configuration(kubeconfig: str | None = None) -> Configuration:
    """Where the API server is and how to log in: the file given, the service account within a cluster, else KUBECONFIG or
    ~/.kube/config."""
    found = Configuration()
    if kubeconfig is None and in_cluster():
        kube_config.load_incluster_config(client_configuration=found)
    else:
        # Read by name, for kubernetes.aio reads KUBECONFIG once, when it is imported.
        file = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        await kube_config.load_kube_config(config_file=file, client_configuration=found)
    # The environment's proxy is looked up here, once; left to aiohttp, each request does it, in a thread.
    found.proxy = found.proxy or _proxy_of_environment(found.host)
    found.client_session_kwargs = {"trust_env": False}
    return found


def _proxy_of_environment(host: str) -> str | None:
    url = urlsplit(host)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def in_cluster() -> bool:
    """A KUBECONFIG given explicitly wins, so that a pod can run an operator for another cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG")
