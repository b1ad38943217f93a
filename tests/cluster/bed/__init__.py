"""Clusters for tests, in two sizes.

A control plane alone, on loopback, without root; ready in about 4 s. For CRDs and their CEL rules, admission, RBAC, the
operator against a real API server, restarts of that server. Pods stay Pending.

    from tests.cluster.bed.controlplane import ControlPlane

    with ControlPlane.temporary(apiserver_flags=["--feature-gates=..."]) as plane:
        plane.kubeconfig                                  # a Path, for KUBECONFIG
        plane.kubectl("apply", "-f", "manifests/crd")     # raises BedError with the server's words
        plane.get("sftjobs", "-n", "a")                   # parsed JSON
        plane.restart_apiserver()                         # same data, same port; also stop_apiserver, start_apiserver

A node, as root: kubelet, containerd, networks of its own. See `tests.cluster.bed.node`.

Programs are built from pinned modules on first use and kept in `$XDG_CACHE_HOME/literary-alpaca`; `python -m
tests.cluster.bed build` does it ahead of time (about ten minutes on two cores).
"""
