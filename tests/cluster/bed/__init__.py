"""Clusters for tests, in two sizes.

A control plane alone, on loopback, without root; ready in about 4 s. For CRDs and their CEL rules, admission, RBAC, the
operator against a real API server, restarts of that server. Pods stay Pending.

    from tests.cluster.bed.controlplane import ControlPlane

    with ControlPlane.temporary(apiserver_flags=["--feature-gates=..."]) as plane:
        plane.kubeconfig                                  # a Path, for KUBECONFIG
        plane.kubectl("apply", "-f", "manifests/crd")     # raises BedError with the server's words
        plane.get("sftjobs", "-n", "a")                   # parsed JSON
        plane.restart_apiserver()                         # same data, same port; also stop_apiserver, start_apiserver

A node, as root; ready in about 4 s. For pods that run: kubelet, containerd, networks of its own, and the project's images.

    from tests.cluster.bed.node import Bed

    with Bed.temporary() as bed:
        with bed.namespace("a"):                          # Pod Security: restricted
            models = bed.volume("a", "models")            # a bound claim; its folder on this host
            bed.apply(manifest, namespace="a")            # dicts
            bed.wait("sftjob/poet", "condition=Complete", "a")
            bed.evict("pod-name", "a")                    # as a drain does; also bed.drained()
        bed.images["operator"], bed.images["train"]       # with the checkout's source as it is now
        bed.fake_gpus(8)
        bed.kill_kubelet(), bed.start_kubelet(), bed.restart_apiserver()
        bed.node_exec("nft", "list", "ruleset"), bed.log("kubelet")

Tests take fixtures instead, which make one of each per run (`tests/cluster/conftest.py`): `cluster`, `bed`, `jobset`,
`control_plane`. By hand it is `make cluster-up`, and `ALPACA_TEST_CLUSTER=existing` then runs tests on that.

Programs are built from pinned modules and kept in `$XDG_CACHE_HOME/literary-alpaca`, under a digest of how they are made.
`make test-programs`, or `python -m tests.cluster.bed build [PART...]`, builds them (about ten minutes on two quiet cores); so do
`up` and `make cluster-up`. A test never does: it fails with that command, for it has a limit of time and a build has none.
"""
