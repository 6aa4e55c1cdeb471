"""What an administrator may ask while the server serves; everybody else is refused.

vLLM's two endpoints with its bodies and answers, so that its clients work, and below /admin what
moves names between versions.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, Field

from serving.api.answer_models import AdaptersAnswer
from serving.api.body import read_body
from serving.api.described import described
from serving.api.protocol import Body, Count, Flag, Real
from serving.canary import Canary, Guard
from serving.door.keys import Keys
from serving.server import Server
from serving.versions import Versions

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}$"


def _named(name: str) -> str:
    if re.fullmatch(_NAME, name):
        return name
    raise ValueError(
        "a name begins with a letter or digit and goes on with those and . _ @ : / + -,"
        " 128 characters at most"
    )


Name = Annotated[str, AfterValidator(_named), Field(json_schema_extra={"pattern": _NAME})]


class LoadAdapterRequest(Body):
    """An adapter that is to be served: below the server's folder, or an image's reference."""

    lora_name: Name
    lora_path: str
    load_inplace: Flag = False


class UnloadAdapterRequest(Body):
    """An adapter that is to go; the number is vLLM's own and says nothing here."""

    lora_name: str
    lora_int_id: int | None = None


class PromoteRequest(Body):
    """A name that is to be answered by another version."""

    name: Name
    version: str
    unload_former: Flag = False


class BlendRequest(Body):
    """A weighted sum of adapters that is to be served; a weight below 0 takes away."""

    name: Name
    weights: Annotated[
        dict[str, Annotated[Real, Field(ge=-4, le=4)]], Field(min_length=1, max_length=8)
    ]


class NameRequest(Body):
    """A name of which something is to end."""

    name: str


class CanaryRequest(Body):
    """A share of a name's requests for a candidate; see `Guard`."""

    name: str
    version: str
    share: Annotated[Real, Field(ge=0, le=1)]
    for_s: Annotated[Real, Field(gt=0, le=30 * 86400)]
    most_error_rate: Annotated[Real, Field(ge=0, le=1)] = Guard.most_error_rate
    most_slowdown: Annotated[Real, Field(gt=1)] = Guard.most_slowdown
    least_requests: Count = Guard.least_requests


BODIES = (
    LoadAdapterRequest,
    UnloadAdapterRequest,
    PromoteRequest,
    BlendRequest,
    NameRequest,
    CanaryRequest,
)


def install(app: FastAPI, server: Server) -> None:
    """Add the endpoints."""
    keys = Keys(
        server.config.admin_key_file,
        purpose="loading adapters",
        fix="put one into its admin key file (on a cluster the Secret WORKSPACE-admin-key) and"
        " send it as Authorization: Bearer KEY",
    )

    @app.post(
        "/v1/load_lora_adapter",
        response_class=PlainTextResponse,
        **described(takes=(LoadAdapterRequest,), said="Serve an adapter more."),
    )
    async def load(request: Request) -> PlainTextResponse:
        keys.expect(request.headers)
        asked = await read_body(request, LoadAdapterRequest)
        versions = server.ready_versions()
        await versions.load(asked.lora_name, asked.lora_path, in_place=asked.load_inplace)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @app.post(
        "/v1/unload_lora_adapter",
        response_class=PlainTextResponse,
        **described(takes=(UnloadAdapterRequest,), said="Serve an adapter no more."),
    )
    async def unload(request: Request) -> PlainTextResponse:
        keys.expect(request.headers)
        asked = await read_body(request, UnloadAdapterRequest)
        await server.ready_versions().unload(asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    @app.get("/admin/adapters", **described(gives=AdaptersAnswer, said="What is loaded."))
    async def adapters(request: Request) -> dict[str, Any]:
        keys.expect(request.headers)
        return _state(server)

    @app.post(
        "/admin/blend",
        **described(
            takes=(BlendRequest,),
            gives=AdaptersAnswer,
            said="Serve the weighted sum of adapters as one more.",
        ),
    )
    async def blend(request: Request) -> dict[str, Any]:
        keys.expect(request.headers)
        asked = await read_body(request, BlendRequest)
        await server.ready_versions().blend(asked.name, asked.weights)
        return _state(server)

    @app.post(
        "/admin/promote",
        **described(
            takes=(PromoteRequest,), gives=AdaptersAnswer, said="Move a name to another version."
        ),
    )
    async def promote(request: Request) -> dict[str, Any]:
        keys.expect(request.headers)
        asked = await read_body(request, PromoteRequest)
        server.ready_versions().promote(
            asked.name, asked.version, unload_former=asked.unload_former
        )
        return _state(server)

    @app.post(
        "/admin/canary",
        **described(
            takes=(CanaryRequest,),
            gives=AdaptersAnswer,
            said="Try a version on a share of the requests.",
        ),
    )
    async def try_out(request: Request) -> dict[str, Any]:
        keys.expect(request.headers)
        asked = await read_body(request, CanaryRequest)
        guard = Guard(
            most_error_rate=asked.most_error_rate,
            most_slowdown=asked.most_slowdown,
            least_requests=asked.least_requests,
        )
        server.ready_versions().try_out(
            asked.name, asked.version, share=asked.share, for_s=asked.for_s, guard=guard
        )
        return _state(server)

    def end(path: str, act: Callable[[Versions, str], object], *, said: str) -> None:
        """Add an endpoint by which something of a name ends."""

        @app.post(path, **described(takes=(NameRequest,), gives=AdaptersAnswer, said=said))
        async def ended(request: Request) -> dict[str, Any]:
            keys.expect(request.headers)
            asked = await read_body(request, NameRequest)
            act(server.ready_versions(), asked.name)
            return _state(server)

    end("/admin/rollback", Versions.roll_back, said="Move a name back to what answered before.")
    end("/admin/canary/stop", Versions.stop, said="End a name's canary.")


def _state(server: Server) -> dict[str, Any]:
    """Each version that is loaded, and each name with what answers to it."""
    versions = server.ready_versions()
    return {
        "versions": [
            {
                "version": version,
                "parent": served.parent,
                "digest": served.digest,
                "in_memory": versions.is_in_memory(version),
            }
            for version, served in versions.models.items()
        ],
        "names": [_name(versions, name, version) for name, version in versions.names().items()],
    }


def _name(versions: Versions, name: str, version: str) -> dict[str, Any]:
    canary = versions.canary_of(name)
    return {
        "name": name,
        "version": version,
        "former": versions.former_of(name),
        "canary": _canary(canary) if canary else None,
    }


def _canary(canary: Canary) -> dict[str, Any]:
    return {
        "version": canary.candidate,
        "share": canary.share,
        "verdict": canary.verdict,
        "reason": canary.reason,
        "requests": canary.theirs.requests,
        "failed": canary.theirs.failed,
        "seconds_per_token": canary.theirs.seconds_per_token,
        "seconds_per_token_serving": canary.ours.seconds_per_token,
    }
