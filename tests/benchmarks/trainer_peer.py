"""Kubeflow Trainer with JobSet on a control plane, as plain processes: what our operator is measured beside.

Their manifests are those of the pinned modules. Without a kubelet their Deployments are left out, and their webhooks' Services lead to
this machine, so that the API server goes on checking the certificates that each makes for itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.bed import binaries
from tests.cluster.bed.addons import JOBSET_PROBE
from tests.cluster.bed.cluster import documents, until
from tests.cluster.bed.controlplane import ControlPlane, free_ports

CERTIFICATES = "/tmp/k8s-webhook-server/serving-certs"
"""Where both look for theirs: each has a mount of its own there, which takes root."""
RUNTIME: dict[str, Any] = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "trivial"},
    "spec": {
        "mlPolicy": {"numNodes": 1},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {
                                "template": {
                                    "spec": {"containers": [{"name": "node", "image": "example.org/train:test"}]}
                                }
                            },
                        },
                    }
                ]
            }
        },
    },
}


def train_job(namespace: str, name: str) -> dict[str, Any]:
    """The smallest: one node, one container."""
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"runtimeRef": {"name": RUNTIME["metadata"]["name"]}},
    }


@dataclass(frozen=True)
class Program:
    """A controller: where it lives, and what it is told."""

    name: str
    namespace: str
    service: str
    secret: str
    webhook_port: int
    health_port: int
    metrics_port: int

    def manifests(self, plane: ControlPlane, folder: Path) -> list[dict[str, Any]]:
        """What its authors' Kustomization makes, without Deployments."""
        found = yaml.safe_load_all(plane.kubectl("kustomize", str(folder)))
        return [self._reachable(each) for each in found if each and each["kind"] != "Deployment"]

    def _reachable(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "Service" and manifest["metadata"]["name"] == self.service:
            manifest["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        for webhook in manifest.get("webhooks", []):
            webhook["clientConfig"]["service"]["port"] = self.webhook_port
        if manifest["kind"] == "CustomResourceDefinition":
            manifest["spec"].pop("conversion", None)
        return manifest


def jobset_config(program: Program) -> dict[str, Any]:
    return {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": True, "resourceNamespace": program.namespace},
        "internalCertManagement": {"enable": True},
        "webhook": {"port": program.webhook_port},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{program.health_port}"},
        "metrics": {"bindAddress": f"127.0.0.1:{program.metrics_port}"},
    }


def trainer_config(program: Program) -> dict[str, Any]:
    """Speeds and numbers of workers as shipped."""
    return {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "health": {
            "healthProbeBindAddress": f"127.0.0.1:{program.health_port}",
            "readinessEndpointName": "readyz",
            "livenessEndpointName": "healthz",
        },
        "metrics": {"bindAddress": f"127.0.0.1:{program.metrics_port}", "secureServing": False},
        "webhook": {"port": program.webhook_port},
        "leaderElection": {
            "leaderElect": True,
            "resourceName": "trainer.kubeflow.org",
            "resourceNamespace": program.namespace,
            "leaseDuration": "15s",
            "renewDeadline": "10s",
            "retryPeriod": "2s",
        },
        "controller": {
            "groupKindConcurrency": {
                "TrainJob.trainer.kubeflow.org": 5,
                "TrainingRuntime.trainer.kubeflow.org": 1,
                "ClusterTrainingRuntime.trainer.kubeflow.org": 1,
            }
        },
        "certManagement": {
            "enable": True,
            "webhookServiceName": program.service,
            "webhookSecretName": program.secret,
        },
        "clientConnection": {"qps": 50, "burst": 100},
        "statusServer": {"port": free_ports(1)[0], "qps": 5, "burst": 10},
    }


@contextlib.contextmanager
def trainer(plane: ControlPlane, folder: Path) -> Iterator[list[int]]:
    """Both controllers, ready; gives their process ids."""
    (trainer_folder,) = binaries.ensure(["trainer"])
    trainer = Program(
        "trainer",
        "kubeflow-system",
        "kubeflow-trainer-controller-manager",
        "kubeflow-trainer-webhook-cert",
        *free_ports(3),
    )
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": trainer.namespace}})
    plane.apply(*trainer.manifests(plane, _trainer_kustomization(trainer_folder / "manifests", trainer, folder)))
    in_namespace = {"namespace": trainer.namespace}
    plane.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": trainer.secret} | in_namespace},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": trainer.service} | in_namespace,
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
    )
    with contextlib.ExitStack() as running:
        sets = running.enter_context(jobset(plane, folder))
        process = running.enter_context(
            _running(plane, trainer, trainer_folder / "trainer", trainer_config(trainer), folder)
        )
        until(lambda: _ready(trainer, process, folder), "trainer to be ready", 180)
        until(lambda: plane.apply(RUNTIME), "the peer's webhooks to let a runtime in", 60)
        yield [*sets, process.pid]


@contextlib.contextmanager
def jobset(plane: ControlPlane, folder: Path) -> Iterator[list[int]]:
    """JobSet's controller, ready, which the peer needs, and our jobs of several nodes; gives its process id."""
    (jobset_folder,) = binaries.ensure(["jobset"])
    program = Program("jobset", "jobset-system", "jobset-webhook-service", "jobset-webhook-server-cert", *free_ports(3))
    plane.apply(*program.manifests(plane, jobset_folder / "config" / "default"))
    with _running(plane, program, jobset_folder / "jobset", jobset_config(program), folder) as process:
        until(lambda: _ready(program, process, folder), "jobset to be ready", 180)
        until(lambda: plane.create(JOBSET_PROBE, flags=["--dry-run=server"]), "JobSet's webhooks to answer", 60)
        yield [process.pid]


def _trainer_kustomization(manifests: Path, program: Program, folder: Path) -> Path:
    """Its base without the Deployment."""
    target = folder / "trainer-manifests"
    for part in ("crds", "rbac", "webhook"):
        shutil.copytree(manifests / "base" / part, target / part)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": program.namespace,
        "resources": ["crds", "rbac", "webhook"],
    }
    (target / "kustomization.yaml").write_text(documents([kustomization]), encoding="utf-8")
    return target


@contextlib.contextmanager
def _running(
    plane: ControlPlane, program: Program, binary: Path, config: dict[str, Any], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, which finds its certificate where a kubelet would have mounted it."""
    certificates = folder / f"{program.name}-certificates"
    certificates.mkdir()
    Path(CERTIFICATES).mkdir(parents=True, exist_ok=True)
    settings = folder / f"{program.name}.json"
    settings.write_text(json.dumps(config), encoding="utf-8")
    mounted = f'mount --bind "{certificates}" {CERTIFICATES} && exec "$@"'
    command = [str(binary), f"--kubeconfig={plane.kubeconfig}", f"--config={settings}"]
    with (folder / f"{program.name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mounted, "sh", *command], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: _certificate(plane, program, certificates), f"the certificate of {program.name}", 120)
        yield process
    finally:
        process.kill()
        process.wait()


def _certificate(plane: ControlPlane, program: Program, folder: Path) -> bool:
    """Writes the program's Secret as files, once it has filled it in."""
    data = plane.get("secret", program.secret, "-n", program.namespace).get("data") or {}
    if not data.get("tls.crt"):
        return False
    for name in ("ca.crt", "tls.key", "tls.crt"):  # the last is what it waits for
        (folder / name).write_bytes(base64.b64decode(data[name]))
    return True


def _ready(program: Program, process: subprocess.Popen[bytes], folder: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{program.name} ended: {(folder / f'{program.name}.log').read_text()[-2000:]}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{program.health_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
