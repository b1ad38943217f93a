"""The files that the node's programs are started with. All are in the bed's folder; none is in the host's /etc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.bed.pki import Pki

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "bed.local/pause:1"


def write(folder: Path, tools: Path, pki: Pki, tag: str, node: str, node_ip: str, pods: str) -> None:
    cni = folder / "cni"
    cni.mkdir()
    (cni / "10-bed.conflist").write_text(json.dumps(network(pods)))
    (folder / "resolv.conf").write_text(f"nameserver {node_ip}\n")
    (folder / "containerd.toml").write_text(containerd(folder / "scratch" / "containerd", cni))
    (folder / "Corefile").write_text(corefile(node_ip, pki["coredns.kubeconfig"]))
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet(pki, tag, node_ip, folder / "resolv.conf")))
    (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(kube_proxy(pki, node, pods)))


def network(pods: str) -> dict[str, Any]:
    """Every pod on a link of its own, routed: with a bridge, replies to a ClusterIP need a kernel module that may be missing."""
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": "bed", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}


def containerd(state: Path, cni: Path) -> str:
    """TOML. The plugins left out probe devices that are not there; scores and profiles are left as this host allows them."""
    return f"""\
version = 3
root = "{state}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{cni}"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def corefile(node_ip: str, kubeconfig: str) -> str:
    """Answers about the cluster and nothing else: no name outside it is of use, for no address outside it is reached."""
    return f"""\
.:53 {{
  bind {node_ip}
  errors
  ready {node_ip}:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 1
  }}
  cache 1
}}
"""


def kubelet(pki: Pki, tag: str, node_ip: str, resolv: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": pki["ca.crt"]},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki["kubelet-serving.crt"],
        "tlsPrivateKeyFile": pki["kubelet-serving.key"],
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [node_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{tag}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "2s",
        # How soon a changed Secret or ConfigMap is seen in a running pod; the default is a minute.
        "syncFrequency": "5s",
        # A node of a test must not evict because the developer's disk is full.
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        # An image taken away cannot be had again: it came from no registry.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    }


def kube_proxy(pki: Pki, node: str, pods: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node,
        "clusterCIDR": pods,
        "clientConnection": {"kubeconfig": pki["kube-proxy.kubeconfig"]},
        # The table's size belongs to the whole kernel.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
