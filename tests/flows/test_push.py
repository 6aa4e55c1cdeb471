"""`--push` sends the image to a registry that asks for a password, with a Secret of the file."""

import base64
import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.build import tool
from tests.cluster.registry import PASSWORD, USER, docker_config, running_registry
from tests.dataset.web import running_web
from tests.flows.canary import CANARY, holding, seen_arguments, signed
from tests.flows.conftest import Installation, installed, write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HUB_TOKEN = "hf_canary7c2e"
LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass(frozen=True)
class Pushed:
    """A run whose dataset, registry and hub each have a secret, and what there was to see of it."""

    installation: Installation
    file: Path
    output: str
    object: dict[str, Any]
    digest: str
    arguments: frozenset[str]


@pytest.fixture(scope="module")
def pushed(
    tmp_path_factory: pytest.TempPathFactory, shallow_weights: Path, prefect_home: str
) -> Iterator[Pushed]:
    """One whole run that tunes, pushes and serves; its server still answers."""
    folder, aside = (tmp_path_factory.mktemp(name) for name in ("pushed", "registry"))
    for installation in installed(folder, shallow_weights, prefect_home):
        with running_registry(aside, auth=True) as registry, running_web() as web:
            url = signed(f"{web.address}/rows.parquet")
            file = write_workspace(folder, "pushed", rows=16, training={}, split=1, url=url)
            web.serve_bytes("/rows.parquet", (folder / "rows.parquet").read_bytes())
            login = docker_config(registry.host)
            with_registry(file, registry.host, login)
            installation.environment |= {
                "KAITOFLOW_ALLOW_LOCAL_ADDRESSES": "true",
                "HF_TOKEN": HUB_TOKEN,
            }
            with seen_arguments() as arguments:
                ended = installation.kaitoflow("run", str(file), "--push")
            assert ended.returncode == 0, ended.stdout + ended.stderr
            (aside / "config.json").write_text(login)
            yield Pushed(
                installation,
                file,
                ended.stdout + ended.stderr + installation.kaitoflow("logs", "pushed").stdout,
                installation.object("pushed"),
                digest_there(f"{registry.host}/adapters/pushed:1", aside),
                frozenset(arguments),
            )


def with_registry(path: Path, host: str, config: str) -> Path:
    """The Workspace's file, its image in the registry and its push Secret beside it."""
    manifest, config_map, *_ = yaml.safe_load_all(path.read_text())
    manifest["tuning"]["output"]["image"] = f"{host}/adapters/pushed:1"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "push"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
    path.write_text(yaml.safe_dump_all([manifest, config_map, secret]))
    return path


def with_seed(path: Path, seed: int) -> None:
    """Have the file ask for a training that is another one."""
    manifest, config_map, *others = yaml.safe_load_all(path.read_text())
    asked = {"training_config": {"TrainingArguments": {"seed": seed}}}
    config_map["data"]["training_config.yaml"] = yaml.safe_dump(asked)
    path.write_text(yaml.safe_dump_all([manifest, config_map, *others]))


def digest_there(image: str, login_folder: Path) -> str:
    return subprocess.run(
        [tool("crane"), "digest", image],
        check=True,
        capture_output=True,
        text=True,
        env={"DOCKER_CONFIG": str(login_folder), "HOME": str(login_folder)},
    ).stdout.strip()


def test_the_image_is_pushed_with_the_secret_of_the_file(pushed: Pushed) -> None:
    image = pushed.object["status"]["image"]
    assert (image["digest"], image["pushed"]) == (pushed.digest, True)


@pytest.mark.parametrize(
    ("secret", "needed_by"),
    [
        (CANARY, {"workspace.json", "fetch-dataset.json"}),
        (PASSWORD, {"push.json"}),
        (LOGIN, {"push.json"}),
        (HUB_TOKEN, set()),
    ],
    ids=["dataset", "password", "login", "hub"],
)
def test_a_secret_lies_only_where_a_program_needs_it_and_for_its_owner_alone(
    pushed: Pushed, prefect_folder: Path, secret: str, needed_by: set[str]
) -> None:
    held = [p for p in holding(pushed.installation.home, secret) if p != pushed.file]
    assert {path.name for path in held} <= needed_by
    assert {stat.S_IMODE(path.stat().st_mode) for path in held} <= {0o600}
    assert holding(prefect_folder, secret) == []
    assert secret not in pushed.output + json.dumps(pushed.object["status"])
    assert not [line for line in pushed.arguments if secret in line]


def test_the_search_finds_what_is_there(pushed: Pushed, prefect_folder: Path) -> None:
    assert any("tasks.tuning.pod" in line for line in pushed.arguments)
    assert holding(prefect_folder, "rows.parquet?sv=1&sig=***")
    assert {path.name for path in holding(pushed.installation.home, LOGIN)} >= {"push.json"}


def test_an_edit_that_is_taken_back_has_its_tag_name_the_former_image_and_trains_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    file, digests = write_workspace(installation.home, "pushed", rows=16, training={}, split=1), []
    with running_registry(tmp_path / "registry", auth=True) as registry:
        login = docker_config(registry.host)
        (tmp_path / "config.json").write_text(login)
        with_registry(file, registry.host, login)
        for seed in (1, 2, 1):
            with_seed(file, seed)
            ended = installation.kaitoflow("run", str(file), "--push")
            assert ended.returncode == 0, ended.stdout + ended.stderr
            digests.append(digest_there(f"{registry.host}/adapters/pushed:1", tmp_path))
    first, second, third = digests
    assert first == third != second
    status = installation.object("pushed")["status"]
    assert status["image"]["digest"] == first
    told = {step["name"]: step["detail"] for step in status["steps"]}
    assert told["tune"] == "tuned in generation 1; nothing it depends on has changed"
