"""The Kubernetes API as plain dicts: get, list, server-side apply, delete, watch, container logs.

Built on `kubernetes.aio` for connection, credentials and their renewal. Objects stay what they are
on the wire, so a manifest is built, applied, compared and diagnosed in one form.
"""

import asyncio
import contextlib
import functools
import logging
import os
import re
from asyncio import sslproto
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import cast
from urllib.parse import urlencode
from urllib.request import getproxies

import aiohttp
import orjson
from kubernetes.aio import client, config

from tasks.contract.errors import KubernetesRefused, KubernetesUnavailable
from tasks.platform.wire import FIELD_MANAGER, Object

logger = logging.getLogger(__name__)
# It warns, twice, of what `connect` raises.
logging.getLogger("kubernetes.aio.config").setLevel(logging.ERROR)

_JSON = "application/json"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
# A field that does not exist is an error, and not left out in silence.
_STRICT = {"fieldValidation": "Strict"}
_REHEARSAL = {"dryRun": "All"}
_TIMEOUT_S = 30.0
# How long to ask again when nothing answers; and when it refuses what it may allow a moment later.
PATIENCE_S, _REFUSED_PATIENCE_S = 6.0, 15.0
# Hundreds of runs ask at once; more connections bring no answer sooner and each takes memory.
_CALLS_AT_ONCE = 16
# asyncio keeps a buffer of 256 KiB for each TLS connection, for hundreds of logs that say little;
# a TLS record has 16 KiB.
_TLS_BUFFER_BYTES = 16 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_PAGE = 500
# A watch ends by itself, so that one whose connection has died unseen is not waited for for ever.
_WATCH_S = 290
_RBAC_WORDS = " cannot "
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_PATHS = {
    "ConfigMap": "api/v1/configmaps",
    "ControllerRevision": "apis/apps/v1/controllerrevisions",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "Deployment": "apis/apps/v1/deployments",
    "DeviceClass": "apis/resource.k8s.io/v1/deviceclasses",
    "Event": "api/v1/events",
    "Job": "apis/batch/v1/jobs",
    "InferenceSet": "apis/kaito.sh/v1beta1/inferencesets",
    "Lease": "apis/coordination.k8s.io/v1/leases",
    "LimitRange": "api/v1/limitranges",
    "Node": "api/v1/nodes",
    "NodeClaim": "apis/karpenter.sh/v1/nodeclaims",
    "PersistentVolumeClaim": "api/v1/persistentvolumeclaims",
    "Pod": "api/v1/pods",
    "PodDisruptionBudget": "apis/policy/v1/poddisruptionbudgets",
    "ResourceClaim": "apis/resource.k8s.io/v1/resourceclaims",
    "ResourceQuota": "api/v1/resourcequotas",
    "ResourceSlice": "apis/resource.k8s.io/v1/resourceslices",
    "Secret": "api/v1/secrets",
    "SelfSubjectAccessReview": "apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "Service": "api/v1/services",
    "StatefulSet": "apis/apps/v1/statefulsets",
    "StorageClass": "apis/storage.k8s.io/v1/storageclasses",
    "SubjectAccessReview": "apis/authorization.k8s.io/v1/subjectaccessreviews",
    "Workspace": "apis/kaito.sh/v1beta1/workspaces",
}


# What an API server adds to the faults that it has found: it says nothing of the object.
_RULES_LEFT_OUT = re.compile(
    r",? ?<nil>: Invalid value: (?:null|\"null\"): some validation rules were not checked because "
    r"the object was invalid; correct the existing errors to complete validation"
)


class KubeApi:
    """One connection to an API server, shared by everything in the process."""

    def __init__(self, api_client: client.ApiClient, *, patience_s: float = PATIENCE_S) -> None:
        """Speak by `api_client`, of `connect`, to a server that may be away `patience_s`."""
        self._client, self._patience_s = api_client, patience_s
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        # Told of each request: its method, the status (0 = no answer) and the seconds it took.
        self.on_answer: Callable[[str, int, float], None] | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """An object by name; None when there is none."""
        return await self._call("GET", _path(kind, namespace, name), none_for=(404,))

    async def find(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """The objects with these labels and fields; namespace None = of all namespaces."""
        query = _selector(labels) | _selector(fields, name="fieldSelector")
        answer = await self._call("GET", _path(kind, namespace), query=query)
        assert answer is not None
        return _items(answer)

    async def find_if_any(
        self, kind: str, *, fields: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Those of all namespaces; none where they may not be seen, or the kind is not known."""
        query = _selector(fields, name="fieldSelector")
        answer = await self._call("GET", _path(kind, None), query=query, none_for=(403, 404))
        return _items(answer) if answer else []

    async def find_in_pages(
        self, kind: str, *, fields: str, page: int = _PAGE
    ) -> AsyncGenerator[list[Object]]:
        """Every page of the objects of all namespaces, for who keeps little of each.

        Args: fields: as a fieldSelector says it.
        """
        query = {"fieldSelector": fields, "limit": str(page)}
        while True:
            answer = await self._call("GET", _path(kind, None), query=query)
            assert answer is not None
            yield _items(answer)
            if not (more := answer["metadata"].get("continue")):
                return
            query["continue"] = more

    async def find_with_version(
        self,
        kind: str,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None,
        fields: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> tuple[list[Object], str]:
        """The objects, and the version from which a watch goes on."""
        query = _selector(labels) | _selector(fields, name="fieldSelector")
        accept = _METADATA_LIST if metadata_only else _JSON
        answer = await self._call("GET", _path(kind, namespace), query=query, accept=accept)
        assert answer is not None
        return _items(answer), answer["metadata"]["resourceVersion"]

    async def table(
        self, kind: str, namespace: str | None, *, with_objects: bool = False
    ) -> Object:
        """The objects as the API server prints them (a Table of meta.k8s.io: columns and rows).

        Args: with_objects: whole in their rows; else their metadata alone.
        """
        query = {"includeObject": "Object"} if with_objects else {}
        answer = await self._call("GET", _path(kind, namespace), query=query, accept=_TABLE)
        assert answer is not None
        return answer

    async def create(
        self, kind: str, namespace: str | None, body: Object, *, dry_run: bool = False
    ) -> Object | None:
        """The new object; None when one of that name is there already.

        Args: dry_run: only hear what the API server says to it.
        """
        query = _STRICT | (_REHEARSAL if dry_run else {})
        path = _path(kind, namespace)
        return await self._call("POST", path, query=query, body=body, none_for=(409,))

    async def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Have the object as the manifest says (server-side apply); twice is once.

        Args: dry_run: only hear what the API server says to it.
        """
        meta = manifest["metadata"]
        answer = await self._call(
            "PATCH",
            _path(manifest["kind"], meta.get("namespace"), meta["name"]),
            query={"fieldManager": FIELD_MANAGER, "force": "true"}
            | _STRICT
            | (_REHEARSAL if dry_run else {}),
            body=manifest,
            content_type="application/apply-patch+yaml",
        )
        assert answer is not None
        return answer

    async def merge(
        self, kind: str, namespace: str | None, name: str, patch: Object, *, subresource: str = ""
    ) -> Object | None:
        """The object after a merge patch; None when it is gone, or is another one of that name."""
        return await self._call(
            "PATCH",
            _path(kind, namespace, name) + (f"/{subresource}" if subresource else ""),
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type="application/merge-patch+json",
            none_for=(404, 409),
        )

    async def delete(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        body: Object | None = None,
    ) -> bool:
        """Delete an object, and by default all it owns in the background; whether it was there.

        Args: uid: of the object that is meant: another of its name stays.
        """
        body = body or {"propagationPolicy": "Background"}
        if uid:
            body = body | {"preconditions": {"uid": uid}}
        path = _path(kind, namespace, name)
        gone = (404, 409) if uid else (404,)
        return await self._call("DELETE", path, body=body, none_for=gone) is not None

    async def evict(self, namespace: str, pod: str, uid: str) -> None:
        """Have a pod end in order, as a drain does; one that is gone already is.

        Raises: KubernetesRefused: among others a PodDisruptionBudget keeps it.
        """
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        path = f"{_path('Pod', namespace, pod)}/eviction"
        await self._call("POST", path, body=body, none_for=(404, 409))

    async def watch(
        self,
        kind: str,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None,
        version: str,
        fields: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Changes since a version, as (ADDED | MODIFIED | DELETED | BOOKMARK, object).

        Ends after some minutes, and when the server wants to; go on from the last version seen.
        Raises: KubernetesRefused: the version is too old: list again.
        """
        query = {
            **_selector(labels),
            **_selector(fields, name="fieldSelector"),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_S),
        }
        path = _path(kind, namespace)
        accept = _METADATA if metadata_only else _JSON
        lines = self._lines(path, query, read_timeout_s=_WATCH_S + 30, accept=accept)
        async for line in lines:
            try:
                event = orjson.loads(line)
            except ValueError as error:  # broken off in the middle of it
                raise _unavailable(path, error) from error
            if event["type"] == "ERROR":
                raise KubernetesRefused(
                    f"a watch of {kind} was asked for",
                    f"the API server ended it: {event['object'].get('message')}",
                    "list the objects again",
                )
            yield event["type"], event["object"]

    async def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        since: str | None,
        follow: bool,
        previous: bool = False,
    ) -> AsyncGenerator[tuple[str, str]]:
        """A container's log as (time of the line, line); with `follow` until the container ends.

        Args: since: an RFC 3339 time, in whole seconds: lines of that second come again.
        previous: of the start before the last one.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        if previous:
            query["previous"] = "true"
        if since:
            query["sinceTime"] = since
        path = f"{_path('Pod', namespace, pod)}/log"
        async for line in self._lines(path, query, read_timeout_s=None):
            moment, _, text = line.partition(" ")
            yield moment, text

    async def ask_service(
        self,
        namespace: str,
        service: str,
        path: str,
        body: Object | None,
        *,
        read_timeout_s: float,
        headers: Mapping[str, str],
    ) -> AsyncGenerator[str]:
        """The lines that a Service answers to a POST, as they come, through the API server.

        Without a body it is a GET.

        Args: service: name:port. headers: for the Service; the API server keeps Authorization.
        Raises: KubernetesRefused: the API server or the Service says no.
        """
        proxy = f"{_path('Service', namespace, service)}/proxy/{path}"
        method = "GET" if body is None else "POST"
        lines = self._lines(
            proxy, None, read_timeout_s=read_timeout_s, method=method, body=body, headers=headers
        )
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line

    async def _lines(
        self,
        path: str,
        query: Mapping[str, str] | None,
        *,
        read_timeout_s: float | None,
        method: str = "GET",
        body: Object | None = None,
        accept: str = _JSON,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[str]:
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=_TIMEOUT_S, sock_read=read_timeout_s
        )
        open_it = functools.partial(
            self._open, method, path, query, body, accept=accept, limits=limits, headers=headers
        )
        answer = await open_it()
        ends_s = _now_s() + min(self._patience_s, _REFUSED_PATIENCE_S)
        while answer.status >= 400:
            content = await answer.read()
            is_for_good = method != "GET" or not _again_may_help(answer.status, content)
            if is_for_good or _now_s() > ends_s:
                raise _refused(method, path, answer.status, content)
            await asyncio.sleep(1)
            answer = await open_it()
        try:
            pending = b""
            async for chunk in answer.content.iter_any():
                *whole, pending = (pending + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
            if pending:
                yield pending.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(path, error) from error
        finally:
            answer.close()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        none_for: tuple[int, ...] = (),
    ) -> Object | None:
        """Ask until there is an answer that another try would not change."""
        pause_s, began_s, refused_s = _FIRST_PAUSE_S, _now_s(), 0.0
        while True:
            try:
                async with self._calls:
                    answer = await self._open(
                        method, path, query, body, content_type=content_type, accept=accept
                    )
                    content = await answer.read()
            except (KubernetesUnavailable, aiohttp.ClientError, TimeoutError) as error:
                refused_s = 0.0
                if _now_s() - began_s > self._patience_s:
                    if isinstance(error, KubernetesUnavailable):
                        raise
                    raise _unavailable(path, error) from error
            else:
                if answer.status < 400:
                    return cast("Object", orjson.loads(content))
                if answer.status in none_for:
                    return None
                refused_s = refused_s or _now_s()
                is_over = _now_s() - refused_s > min(self._patience_s, _REFUSED_PATIENCE_S)
                if is_over or not _again_may_help(answer.status, content):
                    raise _refused(method, path, answer.status, content)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
        limits: float | aiohttp.ClientTimeout = _TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        asked = f"/{path}?{urlencode(query)}" if query else f"/{path}"
        headers = {**(headers or {}), "Accept": accept, "Content-Type": content_type}
        began_s, status = _now_s(), 0
        try:
            serialized = await self._client.param_serialize(
                method,
                asked,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*serialized, _request_timeout=limits)
            status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unavailable(path, error) from error
        finally:
            if self.on_answer:
                self.on_answer(method, status, _now_s() - began_s)
        return cast("aiohttp.ClientResponse", answer.response)


async def connect(context: str | None = None, *, patience_s: float = PATIENCE_S) -> KubeApi:
    """The API server of this pod's service account, else of the kubeconfig.

    Args: context: of the kubeconfig; None = its current one. patience_s: how long the API server
    may be away before a call fails.
    Raises: KubernetesUnavailable: neither is there.
    """
    sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
    settings = client.Configuration()
    settings.connection_pool_maxsize = 0  # many runs wait at once, each with a log to follow
    # Else each request looks for proxies and for ~/.netrc, in a thread.
    settings.client_session_kwargs = {"trust_env": bool(getproxies())}
    try:
        if _SERVICE_ACCOUNT.exists() and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                context=context, client_configuration=settings
            )
    except (config.ConfigException, OSError) as error:
        raise KubernetesUnavailable(
            "a cluster was asked for",
            f"no kubeconfig can be used ({error})",
            "set KUBECONFIG, or check `kubectl config current-context`",
        ) from None
    return KubeApi(client.ApiClient(settings), patience_s=patience_s)


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    prefix, _, plural = _PATHS[kind].rpartition("/")
    parts = [prefix, *(["namespaces", namespace] if namespace else []), plural]
    return "/".join([*parts, *([name] if name else [])])


def _selector(wanted: Mapping[str, str] | None, *, name: str = "labelSelector") -> dict[str, str]:
    if not wanted:
        return {}
    return {name: ",".join(f"{key}={value}" for key, value in wanted.items())}


def _items(answer: Object) -> list[Object]:
    """The objects of a list: where there are none, one of metadata says null."""
    return answer["items"] or []


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def is_of_roles(error: KubernetesRefused) -> bool:
    """Whether it lacks a right, and no rule of the cluster's says no to what was asked."""
    return error.status == 403 and _RBAC_WORDS in error.said


def _again_may_help(status: int, content: bytes) -> bool:
    """Whether the answer may be another one soon.

    An API server that has just started knows no tokens and no roles yet, and refuses everybody.
    """
    if b"failed to create typed patch object" in content:
        return False  # a field that does not exist, which it takes for a fault of its own
    lacks_right = status == 403 and _RBAC_WORDS.encode() in content
    return lacks_right or status in (401, 429, 500, 502, 503, 504)


def _refused(method: str, path: str, status: int, content: bytes) -> KubernetesRefused:
    said = _message(content)
    error = KubernetesRefused(
        f"{method} {path} was asked of the API server",
        f"it answered {status}: {said}",
        "correct the object, or give kaitoflow's service account the right",
    )
    error.status, error.said = status, said
    return error


def _message(content: bytes) -> str:
    """What a Status object says; or an answer of the Service behind the proxy, or any text."""
    try:
        said = orjson.loads(content)
        message = str(said.get("message") or said["error"]["message"])
        return _RULES_LEFT_OUT.sub("", message)
    except (ValueError, LookupError, TypeError, AttributeError):
        return content.decode(errors="replace").strip()[:300]


def _unavailable(path: str, error: BaseException) -> KubernetesUnavailable:
    return KubernetesUnavailable(
        f"{path} was asked of the API server",
        f"it did not answer ({type(error).__name__}: {error})",
        "check that the cluster can be reached, then try again",
    )
