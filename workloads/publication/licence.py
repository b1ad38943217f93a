"""Under which licence the base of a model is, as its own card says: what is made of it cannot be given away under another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workloads.errors import SpecError
from workloads.publication import card
from workloads.publication.bundle import CARD
from workloads.publication.card import Licence
from workloads.storage import hub
from workloads.storage.uri import hub_name, local_path
from workloads.system.describe import first_line
from workloads.system.environment import Environment

FIELDS = ("license", "license_name", "license_link")


def of_base(uri: str | None, environment: Environment, log: Callable[[str], None]) -> Licence:
    """Asked of the hub, or read from the README beside the base where that lies on this machine."""
    if uri is None:
        return Licence({}, "It was made of no other model.")
    if uri.startswith("hf://"):
        header = _from_hub(uri, log)
    elif uri.startswith("ms://"):
        header = _from_modelscope(uri, log)
    else:
        header = _from_folder(uri, environment)
    known = {field: str(header[field]) for field in FIELDS if isinstance(header.get(field), str | int | float)}
    if "license" not in known:
        log(f"the card names no licence: that of the base {uri} is not to be read from here")
        return Licence({}, f"The licence of the base `{uri}` is not known here: it binds this model too, see there.")
    name = known.get("license_name", known["license"])
    link = f" ({known['license_link']})" if "license_link" in known else ""
    return Licence(known, f"The base `{uri}` is under `{name}`{link}, which binds this model too.")


def _from_hub(uri: str, log: Callable[[str], None]) -> Mapping[str, Any]:
    import httpx2
    from huggingface_hub import HfApi, errors

    name = "/".join(hub_name(uri).split("/")[:2])
    try:
        found = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN")).model_info(name)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.HTTPError) as error:
        log(f"the card of the base {name} cannot be read: {first_line(error)}")
        return {}
    return vars(found.card_data) if found.card_data else {}


def _from_modelscope(uri: str, log: Callable[[str], None]) -> Mapping[str, Any]:
    from workloads.storage.modelscope_api import MASTER, HubRefuses, Site

    repository = hub.parse(uri, "Model", uri)
    site = Site(os.environ, lambda: None)
    try:
        readme = site.read("model", repository.name, repository.revision or MASTER, CARD)
    except (HubRefuses, hub.HubUnreachable) as error:
        log(f"the card of the base {repository.name} cannot be read: {first_line(error)}")
        return {}
    finally:
        site.close()
    return card.split(readme.decode(errors="replace"))[0]


def _from_folder(uri: str, environment: Environment) -> Mapping[str, Any]:
    try:
        readme = Path(local_path(uri, environment, uri), CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, SpecError):  # of another machine, in a bucket, or without a card
        return {}
    return card.split(readme)[0]
