"""Checkpoints leave their node, and a pod on another one goes on from them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contract.errors import NothingLearned
from tasks.contract.image_reference import parse_push_reference
from tasks.contract.podlog import Stopped, parse_event
from tasks.contract.programs.tuning import CheckpointsAway
from tasks.remote.manifest import encode
from tasks.remote.patience import Patience
from tasks.remote.registry import Repository
from tasks.tuning.pod import away as leaving
from tasks.tuning.pod import heldout
from tasks.tuning.pod.away import fetch, send
from tasks.tuning.pod.result import judged
from tasks.tuning.pod.train import main
from tests.cluster.ports import free_port
from tests.cluster.registry import RunningRegistry, running_registry
from tests.tuning.runs import Runs, losses


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def away(registry: RunningRegistry, tmp_path: Path) -> CheckpointsAway:
    return CheckpointsAway(reference=f"{registry.host}/adapters/{tmp_path.name}:1.checkpoint")


def made(folder: Path, step: int) -> Path:
    """Something that looks like a checkpoint; its seal says the step."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text(json.dumps({"step": step}))
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (checkpoint / "empty").touch()
    return checkpoint


def files(checkpoint: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in checkpoint.iterdir()}


def test_what_was_sent_last_is_what_another_node_gets(
    away: CheckpointsAway, tmp_path: Path
) -> None:
    first, second = made(tmp_path / "here", 5), made(tmp_path / "here", 10)
    assert [send(each, away) for each in (first, second)] == ["", ""]
    there = tmp_path / "there"
    assert fetch(there, away) == [f"checkpoint-10 came from {away.reference}"]
    assert [each.name for each in there.iterdir()] == ["checkpoint-10"]
    assert files(there / "checkpoint-10") == files(second)


def test_a_node_with_a_checkpoint_of_its_own_fetches_none(
    away: CheckpointsAway, tmp_path: Path
) -> None:
    send(made(tmp_path / "here", 5), away)
    there = made(tmp_path / "there", 3).parent
    assert fetch(there, away) == []
    assert [each.name for each in there.iterdir()] == ["checkpoint-3"]


def test_nothing_is_told_where_nothing_was_sent(away: CheckpointsAway, tmp_path: Path) -> None:
    assert fetch(tmp_path / "there", away) == []


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> CheckpointsAway:
    """A registry that is away, and nobody who waits for it."""
    monkeypatch.setattr(leaving, "_SEND_PATIENCE_S", 0)
    monkeypatch.setattr(leaving, "_FETCH_PATIENCE_S", 0)
    return CheckpointsAway(reference=f"127.0.0.1:{free_port()}/adapters/a:1.checkpoint")


def test_a_registry_that_is_away_stops_no_training_and_is_told(
    nobody: CheckpointsAway, tmp_path: Path
) -> None:
    assert send(made(tmp_path, 5), nobody).startswith("checkpoint-5 was not kept away from this")
    (told,) = fetch(tmp_path / "there", nobody)
    assert told.startswith("whether an earlier pod has left a checkpoint could not be seen: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"artifactType": "application/vnd.other"},
        {"annotations": {"io.kaitoflow.checkpoint": "../checkpoint-1"}},
        {"annotations": {}},
    ],
    ids=["another artifact", "a path for a name", "no name"],
)
def test_what_a_stranger_left_there_is_not_taken_for_a_checkpoint(
    away: CheckpointsAway, tmp_path: Path, changes: dict[str, object]
) -> None:
    send(made(tmp_path / "here", 5), away)
    reference = parse_push_reference(away.reference)
    with Repository(reference, "pull,push", patience=Patience(5)) as repository:
        manifest = json.loads(repository.read_manifest(reference.tag))
        repository.put_manifest(encode(manifest | changes))
    (told,) = fetch(tmp_path / "there", away)
    assert f"{away.reference} was to hold a checkpoint; it is something else" in told
    assert not list((tmp_path / "there").glob("checkpoint-*"))


def test_a_pod_that_ends_while_it_compares_leaves_another_only_the_comparison(
    runs: Runs, away: CheckpointsAway, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 4  # of three to an epoch: the last one is within the second
    asked: dict[str, Any] = {
        "training": {"max_steps": steps},
        "DatasetConfig": {"train_test_split": 0.5},
    }
    unbroken = main(runs.config("unbroken", **asked))
    gone = replace(runs.config("gone", **asked), away=away)
    with monkeypatch.context() as patch:
        patch.setattr(heldout, "generate", _end)
        with pytest.raises(Stopped):
            main(gone)
    result = main(replace(runs.config("elsewhere", **asked), away=away))
    assert f"went on from step {steps} of {steps}" in result["notes"]
    assert (result["steps"], result["held_out"]) == (steps, unbroken["held_out"])
    assert weights(result) == weights(unbroken)


def test_an_adapter_that_is_refused_says_where_its_last_step_is_kept(
    runs: Runs, nobody: CheckpointsAway
) -> None:
    held_out = {"rows": 12, "loss_before": 1.0, "loss_after": 2.0, "gain_high": -0.5}
    config = replace(runs.config(), away=nobody)
    with pytest.raises(NothingLearned) as refused:
        judged({"steps": 4, "held_out": held_out}, config)
    assert '"worse warn" (no step is trained again' in refused.value.fix
    assert f"goes on from what {nobody.reference} keeps" in refused.value.fix


def _end(*_: object, **__: object) -> None:
    raise Stopped


def weights(result: Mapping[str, Any]) -> bytes:
    return (Path(result["adapter"]) / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_where_a_node_that_is_gone_had_sent_its_last_checkpoint(
    runs: Runs, away: CheckpointsAway
) -> None:
    saving = {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 2}
    whole = runs.config("whole", training=saving)
    assert runs.finish(whole).code == 0
    lost = replace(runs.config("lost", training=saving), away=away)
    program = runs.start(lost)
    assert program.stdout
    for line in program.stdout:
        if (parse_event(line) or {}).get("step") == 8:
            break
    program.kill()
    program.communicate(timeout=60)
    elsewhere = replace(runs.config("elsewhere", training=saving), away=away)
    said = runs.finish(elsewhere)
    assert said.code == 0, said.log
    assert said.steps[0]["step"] > 6
    assert losses(elsewhere) == pytest.approx(losses(whole), abs=1e-3)
    assert any(f"came from {away.reference}" in note for note in said.last["notes"])
