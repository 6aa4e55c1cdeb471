"""What an administrator asks a server under test."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serving.running import Running, compute_by

KEY = {"Authorization": "Bearer open-sesame"}


def load(server: Running, name: str, path: str, **fields: object) -> httpx2.Response:
    body = {"lora_name": name, "lora_path": path} | fields
    return server.client.post("/v1/load_lora_adapter", json=body, headers=KEY)


def unload(server: Running, name: str) -> httpx2.Response:
    return server.client.post("/v1/unload_lora_adapter", json={"lora_name": name}, headers=KEY)


def names(server: Running) -> list[str]:
    return [model["id"] for model in server.client.get("/v1/models").json()["data"]]


def text(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def root(server: Running) -> Path:
    folder = server.config.adapters_dir
    assert folder
    return folder


def admin(server: Running, path: str, **fields: object) -> httpx2.Response:
    return server.client.post(f"/admin/{path}", json=fields, headers=KEY)


def state_of(server: Running, name: str) -> dict[str, Any]:
    told = server.client.get("/admin/adapters", headers=KEY).json()
    return next(dict(each) for each in told["names"] if each["name"] == name)


def generation(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.headers["x-kaitoflow-generation"])


def break_weights(server: Running, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a version's scores be no numbers, and leave its neighbours in a batch alone."""

    class Broken:
        """The model's place, where one adapter's rows are broken."""

        def __init__(self, forward: Any) -> None:
            self._forward = forward

        def __getattr__(self, name: str) -> Any:
            return getattr(self._forward, name)

        def __call__(self, *arguments: Any, models: Sequence[str], **keywords: Any) -> Any:
            scores = self._forward(*arguments, models=models, **keywords)
            scores[[name == version for name in models]] = math.nan
            return scores

    compute_by(server.engine, Broken, monkeypatch)
