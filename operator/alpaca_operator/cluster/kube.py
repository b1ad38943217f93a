"""The API server, as plain dicts. All that the operator says to it goes through here, besides kopf's watches.

``kubernetes.aio`` gives authentication (kubeconfigs with exec plugins, rotated service account tokens) and TLS. Its typed models
are not used: they refuse fields that a newer server adds. Nor is its retry logic: the queue tries again, with everything read anew.
"""

from __future__ import annotations

import asyncio
import builtins
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from alpaca_operator import __version__, metrics
from alpaca_operator.api import GROUP, KINDS, VERSION
from alpaca_operator.api.contract import PROGRESS_LIMIT
from alpaca_operator.cluster.access import configuration
from alpaca_operator.cluster.http import Request, api_error, error_text, lines, read_capped, warning_text
from alpaca_operator.cluster.objects import Object
from alpaca_operator.cluster.resources import APIS, APIResource
from alpaca_operator.errors import ApiError, Unreachable

TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
LARGEST_PAGE = 500
"""Objects per page of a LIST: about as many as etcd reads at once without hurting others."""
FIRST_PAGE = 50
WATCH_SECONDS = 300
"""After which a watch is begun anew, and what it may have missed is found."""
PAGE_BYTES = 4 * 1024 * 1024
"""What a page should have: of objects that turn out to be large the next has fewer."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
FIELD_MANAGER = "literary-alpaca"
STRICT = {"fieldValidation": "Strict"}
"""A field that the API server does not know is refused: left out, it would be a setting that was asked for and is not there."""
IDENTITY = ("name", "namespace", "uid", "resourceVersion")
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Kube:
    """A connection. Errors are ApiError, or Unreachable when no answer came."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.user_agent = f"literary-alpaca/{__version__}"
        self._session: aiohttp.ClientSession = client.rest_client._create_pool_manager()
        self.may_write: Callable[[], None] = lambda: None
        """Called before each write but the Lease's own; raises NotLeading."""

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Self:
        return cls(ApiClient(await configuration(kubeconfig)))

    async def close(self) -> None:
        await self._session.close()
        await self._client.close()

    # Reads.

    async def get(self, api: APIResource, namespace: str | None, name: str) -> Object | None:
        """None when there is no such object."""
        return await self.read(api.path(namespace, name))

    async def read(self, path: str) -> Object | None:
        """Any path that answers with JSON; None for 404."""
        try:
            return await self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def reread(self, obj: Object) -> Object | None:
        """An object that no list by labels shows any more, and no watch: None where it is gone, for its labels may have been changed."""
        metadata = obj["metadata"]
        live = await self.get(APIS[obj["kind"]], metadata["namespace"], metadata["name"])
        return live if live is not None and live["metadata"]["uid"] == metadata["uid"] else None

    async def list(
        self,
        api: APIResource,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[Object]:
        """All objects, page by page. Each gets the ``kind`` that the server leaves out in lists."""
        async for page in self._pages(api, namespace, labels, fields, metadata_only):
            items = deque(page.pop("items"))
            while items:  # what the taker leaves of an object need not wait for the end of the page
                yield items.popleft()

    async def snapshot(
        self, api: APIResource, namespace: str | None, *, labels: str = "", metadata_only: bool = False
    ) -> tuple[str, builtins.list[Object]]:
        """What all objects are known by, and the resourceVersion at which they were so: what is newer the LIST could not show."""
        version, found = "", []
        async for page in self._pages(api, namespace, labels, "", metadata_only):
            version = str(page["metadata"].get("resourceVersion", ""))
            found += [
                {
                    "apiVersion": item["apiVersion"],
                    "kind": item["kind"],
                    "metadata": {name: item["metadata"].get(name) for name in IDENTITY},
                }
                for item in page["items"]
            ]
        return version, found

    async def _pages(
        self, api: APIResource, namespace: str | None, labels: str, fields: str, metadata_only: bool
    ) -> AsyncIterator[Object]:
        query = {"limit": str(FIRST_PAGE), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        while True:
            present = {name: value for name, value in query.items() if value}
            size: builtins.list[int] = []
            page = await self.call(
                "GET", api.path(namespace), query=present, accept=METADATA_ONLY if metadata_only else JSON, size=size
            )
            page["items"] = page.get("items") or []
            for item in page["items"]:
                item["kind"], item["apiVersion"] = api.kind, api.api_version
            if page["items"]:
                fitting = PAGE_BYTES * len(page["items"]) // size[0]
                query["limit"] = str(max(1, min(fitting, LARGEST_PAGE)))
            yield page
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def watch(
        self, api: APIResource, namespace: str | None, *, labels: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """What is there, as ADDED, then what happens to it, each with its type, until the server ends the answer. Raises ApiError, Unreachable."""
        query = {"watch": "true", "labelSelector": labels, "timeoutSeconds": str(WATCH_SECONDS)}
        path, timeout = api.path(namespace), aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, connect=5)
        async with self.request("GET", path, query=query, timeout=timeout) as response:
            if response.status != 200:
                raise api_error(response, await read_capped(response, PROGRESS_LIMIT))
            try:
                async for line in lines(response):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(
                            int(status.get("code", 500)), status.get("reason", ""), status.get("message", "")
                        )
                    yield event["type"], event["object"]
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unreachable(f"watch of {path}: {error_text(error)}") from error

    async def text(self, path: str, *, limit: int, seconds: float, query: Mapping[str, str] | None = None) -> bytes:
        """At most ``limit`` bytes of an answer that need not be JSON: a pod's log, or a pod reached through the server."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self.request("GET", path, query=query, accept="*/*", timeout=timeout) as response:
            if response.status != 200:
                raise ApiError(response.status, response.reason or "", f"GET {path}")
            return await read_capped(response, limit)

    # Writes.

    async def create(
        self, api: APIResource, body: Object, *, fenced: bool = True, warnings: builtins.list[str] | None = None
    ) -> Object:
        """``warnings`` gets what the server has to say of an object that it takes all the same."""
        path = f"{api.path(body['metadata'].get('namespace'))}?{urlencode(STRICT)}"
        return await self.write("create", "POST", api, path, body, fenced=fenced, warnings=warnings)

    async def replace(self, api: APIResource, body: Object, *, fenced: bool = True) -> Object:
        """Refused with 409 unless ``body`` carries the present resourceVersion."""
        metadata = body["metadata"]
        path = api.path(metadata.get("namespace"), metadata["name"])
        return await self.write("update", "PUT", api, path, body, fenced=fenced)

    async def put_status(self, api: APIResource, current: Object, status: Object) -> Object:
        """Replaces the status as a whole; 409 when the object is no longer as ``current`` is.

        A JSON patch: a merge patch could not keep a null (a metric that was not a number), and would leave behind what is gone.
        """
        metadata = current["metadata"]
        patch = [
            {"op": "add", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
            {"op": "add", "path": "/status", "value": status},
        ]
        path = api.path(metadata.get("namespace"), metadata["name"], "status")
        return await self.write("patch", "PATCH", api, path, patch, content_type=JSON_PATCH)

    async def merge(self, api: APIResource, current: Object, patch: Object) -> Object:
        """A merge patch, on this very object: 409 when another of its name has taken its place."""
        metadata = current["metadata"]
        body = {**patch, "metadata": {**patch.get("metadata", {}), "uid": metadata["uid"]}}
        path = api.path(metadata.get("namespace"), metadata["name"])
        return await self.write("patch", "PATCH", api, path, body, content_type=MERGE_PATCH)

    async def apply(self, api: APIResource, body: Object, *, warnings: builtins.list[str] | None = None) -> Object:
        """Server-side apply: fields that an earlier one had and this one lacks are removed, those of others stay. ``warnings``: as of
        ``create``."""
        metadata = body["metadata"]
        query = urlencode({"fieldManager": FIELD_MANAGER, "force": "true", **STRICT})
        path = f"{api.path(metadata.get('namespace'), metadata['name'])}?{query}"
        return await self.write("apply", "PATCH", api, path, body, content_type=APPLY_PATCH, warnings=warnings)

    async def delete(self, api: APIResource, current: Object) -> Object | None:
        """Deletes this very object, and stays visible until what it owns is gone. None when it was gone already."""
        metadata = current["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": metadata["uid"]},
            "propagationPolicy": "Foreground",
        }
        try:
            path = api.path(metadata.get("namespace"), metadata["name"])
            return await self.write("delete", "DELETE", api, path, body)
        except ApiError as error:
            # 409: an object of this name, but another one.
            if error.status in (404, 409):
                return None
            raise

    # How.

    async def write(
        self,
        verb: str,
        method: str,
        api: APIResource,
        path: str,
        body: Any,
        *,
        content_type: str = JSON,
        fenced: bool = True,
        warnings: builtins.list[str] | None = None,
    ) -> Object:
        """All writes come through here: fenced by the Lease, and counted."""
        if fenced:
            self.may_write()
        metrics.API_WRITES.labels(verb, api.plural).inc()
        return await self.call(method, path, body=body, content_type=content_type, warnings=warnings)

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        warnings: builtins.list[str] | None = None,
        size: builtins.list[int] | None = None,
    ) -> Object:
        """The answer, read as JSON, and its ``size`` in bytes where that is asked for. Raises ApiError, Unreachable."""
        request = self.request(method, path, query=query, body=body, content_type=content_type, accept=accept)
        async with request as response:
            try:
                content = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unreachable(f"{method} {path}: {error_text(error)}") from error
            if response.status < 300:
                if warnings is not None:
                    warnings += [warning_text(header) for header in response.headers.getall("Warning", ())]
                if size is not None:
                    size.append(len(content))
                answer: Object = json.loads(content)
                return answer
            raise api_error(response, content)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
    ) -> Request:
        """For ``async with``: an answer that is read piece by piece."""
        return Request(
            self._client,
            self._session,
            method,
            path + (f"?{urlencode(query)}" if query else ""),
            {
                "Accept": accept,
                "User-Agent": self.user_agent,
                **({"Content-Type": content_type} if body is not None else {}),
            },
            json.dumps(body, separators=(",", ":")).encode() if body is not None else None,
            timeout,
        )


async def wait_for_kinds(kube: Kube, poll_seconds: float, say: Callable[[str], None]) -> None:
    """Returns when the API server serves all our kinds; says once what is missing. The CRDs may be applied after the operator."""
    said: set[str] = set()
    while missing := await _missing_kinds(kube):
        if missing - said:
            say(f"waiting for the CRDs of {', '.join(sorted(missing))}: kubectl apply -f manifests/crd")
            said |= missing
        await asyncio.sleep(poll_seconds)


async def _missing_kinds(kube: Kube) -> set[str]:
    try:
        found = await kube.read(f"/apis/{GROUP}/{VERSION}") or {}
    except (ApiError, Unreachable):
        return set(KINDS)
    return set(KINDS) - {each["kind"] for each in found.get("resources", [])}
