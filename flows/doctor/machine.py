"""This machine, as a run on it would find it."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
import psutil

from flows.doctor import registries, verdicts
from flows.doctor.prefect import ask_prefect
from tasks.contract.artifacts import Check
from tasks.platform.local import own_docker_config
from tasks.platform.store import Store
from tasks.settings import Settings

_HUB = "https://huggingface.co"
_ANSWER_S = 10.0
_DRIVER_S, _TORCH_S = 20.0, 120.0
_SEE_GPUS = "from serving.model.gpus import require_gpus; require_gpus(1)"
_GIB, _GB = 2**30, 10**9


def examine(settings: Settings) -> list[Check]:
    """What a first run would stumble over here, a line for each thing that was looked at."""
    looks = [*_room(settings.home_dir), _devices(), *_prefect(), *_hub()]
    return [*looks, *_registries(settings)]


def _room(home: Path) -> Iterable[Check]:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return verdicts.room(
        free_gb=shutil.disk_usage(there).free / _GB,
        memory_gib=psutil.virtual_memory().available / _GIB,
        home=str(home),
        is_writable=os.access(there, os.W_OK | os.X_OK),
    )


def _devices() -> Check:
    names = _gpu_names()
    problem = _gpu_problem() if names else ""
    return verdicts.devices(names, cores=os.cpu_count() or 1, problem=problem)


def _gpu_names() -> list[str]:
    """What NVIDIA's driver tells; nothing without one."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=_DRIVER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.stdout.splitlines() if line.strip()]


def _gpu_problem() -> str:
    """Why the pods' PyTorch cannot use the GPU, in its last words; empty where it can."""
    command = [sys.executable, "-P", "-c", _SEE_GPUS]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=_TORCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"PyTorch did not answer within {_TORCH_S:.0f} s"
    return said.stderr.strip().rpartition("\n")[2] if said.returncode else ""


def _prefect() -> list[Check]:
    if "PREFECT_API_URL" in os.environ:
        from flows.pools import LOCAL_POOL

        return asyncio.run(ask_prefect(LOCAL_POOL))
    told = "PREFECT_API_URL is not set: each command has a server of this machine's own"
    return [Check(name="Prefect", result="ok", detail=told)]


def _registries(settings: Settings) -> list[Check]:
    """Those of the Workspaces that are kept here, and the base models' own."""
    kept = Store(settings.home_dir).list()
    images = [image for each in kept for image in registries.named_images(each.workspace)]
    if settings.models_registry:
        images.append(registries.Named(f"{settings.models_registry}/models", ""))
    insecure = settings.insecure_registries
    return registries.look(images, None, own=own_docker_config(), insecure=insecure)


def _hub() -> Iterable[Check]:
    """Whether models can be fetched; and by its answer, whether this machine's clock is right."""
    address = os.environ.get("HF_ENDPOINT", _HUB)
    try:
        answer = httpx2.head(address, timeout=_ANSWER_S, follow_redirects=True)
        answered = datetime.now(UTC)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        yield Check(
            name="models",
            result="warn",
            detail=f"{address} does not answer ({type(error).__name__}: {error})",
            fix="give this machine a way there, or name a mirror by HF_ENDPOINT; a folder and what "
            "was fetched before need none",
        )
        return
    yield Check(name="models", result="ok", detail=f"{address} answers")
    if date := answer.headers.get("date"):
        yield verdicts.clock(parsedate_to_datetime(date), answered, whose=address)
