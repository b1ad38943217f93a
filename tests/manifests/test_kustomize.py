"""What `kubectl apply -k` sends: whole, pinned, restricted."""

from __future__ import annotations

import json
from os.path import relpath
from typing import Any

import pytest
from ruamel.yaml import YAML

from alpaca_operator import __version__
from alpaca_operator.api import KINDS, PLURALS
from alpaca_operator.settings import Settings
from tests.manifests.build import MANIFESTS, kustomized, read

ROOTS = [
    path.parent for path in sorted(MANIFESTS.rglob("kustomization.yaml")) if read(path)[0]["kind"] == "Kustomization"
]
COMPONENTS = [path.parent for path in sorted((MANIFESTS / "components").rglob("kustomization.yaml"))]


@pytest.mark.parametrize("folder", ROOTS, ids=lambda folder: str(folder.relative_to(MANIFESTS)))
def test_it_builds(folder):
    assert kustomized(folder)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda folder: folder.name)
def test_a_component_builds_on_the_default(component, tmp_path):
    assert kustomized(overlay(tmp_path, component))


def overlay(folder, *components, **fields: Any):
    """A kustomization as a user writes it, beside ours."""
    text = {
        "resources": [relpath(MANIFESTS / "default", folder)],
        "components": [relpath(component, folder) for component in components],
        **fields,
    }
    YAML(typ="safe").dump(text, folder / "kustomization.yaml")
    return folder


def test_one_object_a_file():
    files = [path for path in MANIFESTS.rglob("*.yaml") if path.name not in ("kustomization.yaml", "health_test.yaml")]
    assert len(files) > 30
    chains = {path for path in files if "  from:\n" in path.read_text(encoding="utf-8")}  # read as one
    assert {str(path): len(read(path)) for path in files if len(read(path)) != 1 and path not in chains} == {}


def deployment(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == "Deployment"]
    return found


def test_the_operator_is_of_this_version():
    spec = deployment(kustomized(MANIFESTS / "default"))["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == f"registry.invalid/literary-alpaca/operator:{__version__}"


def test_every_kind_has_an_image_and_every_setting_is_one():
    (settings,) = [
        each
        for each in kustomized(MANIFESTS / "default")
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("literary-alpaca-settings")
    ]
    read_by_operator = Settings.from_environment(settings["data"])
    assert set(read_by_operator.images) == set(KINDS)
    assert all(image.endswith(f":{__version__}") for image in read_by_operator.images.values())
    images = {*read_by_operator.images.values(), read_by_operator.image_page}
    hosts = {image.partition("/")[0] for image in images}
    assert {host.rpartition(".")[2] for host in hosts} == {"invalid"}, "a name that somebody could register"
    others = {name for name in settings["data"] if not name.startswith("ALPACA_IMAGE_")}
    assert others <= {f"ALPACA_{name.upper()}" for name in Settings.__slots__}


def test_an_overlay_changes_images_and_settings_as_the_comment_says(tmp_path):
    built = kustomized(
        overlay(
            tmp_path,
            images=[{"name": "registry.invalid/literary-alpaca/operator", "newName": "registry.example/op"}],
            configMapGenerator=[
                {
                    "name": "literary-alpaca-settings",
                    "namespace": "literary-alpaca-system",
                    "behavior": "merge",
                    "literals": ["ALPACA_IMAGE_SFTJOB=registry.example/train:9"],
                }
            ],
        )
    )
    container = deployment(built)["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"registry.example/op:{__version__}"
    name = container["envFrom"][0]["configMapRef"]["name"]
    (settings,) = [each for each in built if each["kind"] == "ConfigMap"]
    assert settings["metadata"]["name"] == name != "literary-alpaca-settings"
    assert settings["data"]["ALPACA_IMAGE_SFTJOB"] == "registry.example/train:9"
    assert settings["data"]["ALPACA_LOG_FORMAT"] == "JSON"


def test_one_namespace_gets_no_rights_outside_it():
    built = kustomized(MANIFESTS / "namespaced")
    assert {each["kind"] for each in built} == {
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Service",
        "Deployment",
    }
    assert {each["metadata"]["namespace"] for each in built} == {"literary-alpaca"}
    env = deployment(built)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "ALPACA_NAMESPACES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}} in env


def test_two_replicas_spread_and_may_lose_one(tmp_path):
    built = kustomized(overlay(tmp_path, MANIFESTS / "components" / "high-availability"))
    spec = deployment(built)["spec"]
    assert spec["replicas"] == 2
    assert spec["template"]["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
    (budget,) = [each for each in built if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["selector"] == spec["selector"]


@pytest.mark.controlplane
class TestOnAnApiServer:
    def test_pod_security_takes_the_operator(self, installed):
        pod = deployment(kustomized(MANIFESTS / "default"))["spec"]["template"]
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "labels": pod["metadata"]["labels"]},
        }
        installed.kubectl(
            "create",
            "--dry-run=server",
            "-n",
            "literary-alpaca-system",
            "-f",
            "-",
            input=json.dumps({**manifest, "spec": pod["spec"]}),
        )

    def test_the_namespaced_install_is_taken(self, installed):
        installed.kubectl("create", "namespace", "literary-alpaca")
        said = installed.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "namespaced"))
        assert said.count("serverside-applied") == 8


def test_the_crds_for_kustomize_are_all_of_ours():
    listed = YAML(typ="safe").load((MANIFESTS / "crd" / "Kustomization").read_text(encoding="utf-8"))
    assert listed["resources"] == [f"{PLURALS[kind]}.yaml" for kind in KINDS]


def test_the_readme_knows_every_folder():
    readme = (MANIFESTS / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in MANIFESTS.iterdir() if path.is_dir()}
    components = {path.name for path in (MANIFESTS / "components").iterdir()}
    assert {name for name in folders if f"`{name}`" not in readme} == set()
    assert {name for name in components - {"namespaced"} if f"manifests/components/{name}" not in readme} == set()
