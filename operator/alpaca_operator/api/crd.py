"""CustomResourceDefinitions, generated: ``python -m alpaca_operator.api.crd FOLDER`` writes one file for each kind."""

import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alpaca_operator.api import KINDS
from alpaca_operator.api.resource import GROUP, PLURALS, VERSION, Resource
from alpaca_operator.api.schema import resource_schema

SIZE_LIMIT = 200_000
"""Bytes a CRD may have: server-side apply and etcd bear more, client-side apply's annotation (262,144) does not."""


def crd(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of ``kind``."""
    plural = PLURALS[kind.__name__]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": plural,
                "singular": kind.__name__.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["alpaca"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources(kind),
                    "additionalPrinterColumns": list(kind.columns),
                    "schema": {"openAPIV3Schema": resource_schema(kind)},
                }
            ],
        },
    }


def subresources(kind: type[Resource]) -> dict[str, Any]:
    """`status` for every kind; `scale` for those of which there may be several pods."""
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {"status": {}, **({"scale": scale} if kind.scales else {})}


def render(kind: type[Resource]) -> str:
    """The CRD as YAML."""
    yaml = YAML()
    yaml.width = 130
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(crd(kind), text)
    return f"# Generated from operator/alpaca_operator/api by `make generate`. Do not edit.\n{text.getvalue()}"


def kustomization() -> str:
    """Lists the CRDs for kustomize. In a file without an extension, which `kubectl apply -f` of the folder passes over."""
    lines = ["# Generated from operator/alpaca_operator/api by `make generate`: do not edit."]
    lines += ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources:"]
    return "\n".join([*lines, *(f"  - {PLURALS[kind]}.yaml" for kind in KINDS)]) + "\n"


def main(folder: str) -> None:
    """Writes every CRD into ``folder``, and the Kustomization that lists them."""
    Path(folder, "Kustomization").write_text(kustomization(), encoding="utf-8")
    for kind in KINDS.values():
        text = render(kind)
        if len(text.encode()) > SIZE_LIMIT:
            raise SystemExit(
                f"the CRD of {kind.__name__} has {len(text.encode())} bytes, above {SIZE_LIMIT}: shorten its descriptions"
            )
        Path(folder, f"{PLURALS[kind.__name__]}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
