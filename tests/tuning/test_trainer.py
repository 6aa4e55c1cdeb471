"""The trainer in this process, on a tiny model: seeds, losses, evaluation, held-out rows."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
)

from serving.model.loading import preferred_dtype
from serving.weights.marker import MARKER, Marker
from tasks.contract.errors import (
    DatasetRowsInvalid,
    GpuIncompatible,
    InvalidTuningConfig,
    ModelDoesNotFit,
    ModelNotSupported,
    NothingLearned,
    TrainingDiverged,
)
from tasks.contract.podlog import Stopped
from tasks.contract.programs.tuning import AS_SERVED, EVALUATION_FILE, HeldOut, WeightCounts
from tasks.contract.training_config import DatasetSettings, TrainingConfig
from tasks.contract.training_policy import TrainingPolicy
from tasks.tuning.pod import heldout, planning, trainer
from tasks.tuning.pod.data import tokenise
from tasks.tuning.pod.planning import packed_lengths
from tasks.tuning.pod.split import split_rows
from tasks.tuning.pod.train import main
from tasks.tuning.pod.trainer import without_effect
from tests.tuning.runs import Runs, events_in, losses
from tests.tuning.tiny import (
    LLAMA3,
    SPECIAL,
    chat,
    chats,
    tiny_tokenizer,
    write_rows,
    write_tiny_experts,
)

# Seen on x86-64 with torch 2.15; a change of more than this is a change of what is trained.
PINNED = [5.5888, 5.3141, 5.1880, 5.1076, 5.1071, 5.0637]
TINY: dict[str, Any] = {
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def published(result: Mapping[str, Any], name: str) -> Any:
    return json.loads((Path(result["adapter"]) / name).read_text())


def test_one_seed_gives_one_run_and_these_losses(runs: Runs) -> None:
    config = runs.config()
    main(config)
    assert losses(config) == pytest.approx(PINNED, abs=2e-3)


def test_another_seed_gives_another_run(runs: Runs) -> None:
    config = runs.config(training={"seed": 7})
    main(config)
    assert losses(config) != pytest.approx(PINNED, abs=2e-3)


def test_the_same_run_elsewhere_gives_the_same_bytes(runs: Runs) -> None:
    first, second = (Path(main(runs.config(name))["adapter"]) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert {"chat_template.jinja", "README.md", "tokenizer.json", "metrics.json"} <= set(names)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_finished_run_is_not_run_again(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.config()
    first = main(config)
    capsys.readouterr()
    assert main(config) == first
    assert events_in(capsys.readouterr().out) == []


def test_a_changed_setting_makes_another_run(runs: Runs) -> None:
    main(runs.config(training={"max_steps": 1}))
    assert main(runs.config(training={"max_steps": 2}))["steps"] == 2


def test_the_adapter_names_its_base_model_and_revision(runs: Runs) -> None:
    config = published(main(runs.config(training={"max_steps": 1})), "adapter_config.json")
    assert config["base_model_name_or_path"] == "tests/tiny"
    assert config["revision"] == "abc123"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 7


def test_the_adapter_names_the_commit_and_files_that_its_revision_stood_for(
    runs: Runs, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(runs.weights_dir, weights)
    marker = Marker(
        model_id="tests/tiny",
        revision="main",
        source="hub",
        files={"model.safetensors": 1},
        digests={"model.safetensors": "aa"},
        commit="c0ffee",
    )
    (weights / MARKER).write_text(json.dumps(asdict(marker)))
    here = Runs(tmp_path, weights, runs.train_file)
    result = main(replace(here.config(training={"max_steps": 1}), base_revision="main"))
    metrics = published(result, "metrics.json")
    assert (metrics["base_commit"], metrics["base_files"]) == ("c0ffee", marker.files_digest)
    assert metrics["versions"]["kaitoflow"] == version("kaitoflow")
    card = (Path(result["adapter"]) / "README.md").read_text()
    assert "(revision `main`, commit `c0ffee`)" in card


def test_the_adapter_loads_over_its_base_model_and_changes_it(runs: Runs) -> None:
    adapter = main(runs.config())["adapter"]
    model = AutoModelForCausalLM.from_pretrained(runs.weights_dir)
    ids = torch.arange(20)[None]
    before = model(ids).logits
    after = PeftModel.from_pretrained(model, adapter)(ids).logits
    assert not torch.allclose(before, after)


def test_progress_is_told_from_the_first_step_on(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    main(runs.config())
    events = events_in(capsys.readouterr().out)
    assert [event["phase"] for event in events if "step" not in event] == [
        *("load", "train", "save", "evaluate"),
    ]
    steps = [event for event in events if "step" in event]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert {"steps", "learning_rate", "grad_norm", "tokens_per_s", "eta_s", "memory_gib"} <= set(
        steps[0]
    )


def test_held_out_rows_are_compared_before_and_after(runs: Runs) -> None:
    config = runs.config(DatasetConfig={"train_test_split": 0.75}, training={"num_train_epochs": 4})
    result = main(config)
    held_out = result["held_out"]
    assert held_out["rows"] == result["rows"]["held_out"] == 24 - result["rows"]["trained"] > 2
    assert held_out["loss_after"] < held_out["loss_before"] - 0.5
    assert held_out["loss_constant"] > 0
    assert held_out["right_constant"] <= held_out["right_after"] <= held_out["rows"]
    assert held_out["sample"]["reference"].startswith("It is ")
    assert held_out["answers"]["asked"] == held_out["rows"]


def test_experts_are_trained_and_compared(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", chats(60))
    experts = Runs(tmp_path, write_tiny_experts(tmp_path / "experts"), rows)
    result = main(experts.config(training={"max_steps": 2}, DatasetConfig={}))
    assert (result["steps"], result["held_out"]["answers"]["asked"]) == (2, 4)
    told = str(WeightCounts(**result["weights"]))
    assert re.search(r"none on its experts \(\d\S* % of the weights\); ", told)


def test_a_comparison_that_fails_costs_nothing_but_its_figures(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the answers came out sideways\nin the second line too")

    monkeypatch.setattr(heldout, "generate", fail)
    config = runs.config(DatasetConfig={"train_test_split": 0.75}, training={"max_steps": 1})
    result = main(config)
    assert (result["held_out"], result["steps"]) == (None, 1)
    assert result["held_out_missing"] == "RuntimeError: the answers came out sideways"
    assert load_file(Path(result["adapter"]) / "adapter_model.safetensors")
    card = (Path(result["adapter"]) / "README.md").read_text()
    assert "could not be compared (RuntimeError: the answers came out sideways)" in card
    assert main(config) == result


def test_a_run_that_is_stopped_while_it_compares_is_finished(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr(heldout, "generate", stop)
    config = runs.config(DatasetConfig={"train_test_split": 0.75}, training={"max_steps": 1})
    with pytest.raises(Stopped):
        main(config)
    again = main(config)
    assert again["held_out_missing"] == "the run was stopped before they were compared"
    assert published(again, "metrics.json")["held_out"] is None


def test_rows_to_measure_adapters_on_lie_beside_the_adapter_and_were_not_trained_on(
    runs: Runs,
) -> None:
    config = runs.config(DatasetConfig={}, training={"max_steps": 1})
    result = main(config)
    kept = (config.results_dir / EVALUATION_FILE).read_text().splitlines()
    assert [json.loads(line) in chats(24) for line in kept] == [True]
    assert (result["rows"]["trained"], result["rows"]["held_out"]) == (23, 1)


def test_rows_set_aside_are_measured_and_what_asks_the_same_is_not_learned(
    runs: Runs, tmp_path: Path
) -> None:
    aside = [*chats(3), chat("Is it set aside?", "It is.")]
    file = write_rows(tmp_path / "aside.jsonl", aside)
    config = replace(runs.config(DatasetConfig={}, training={"max_steps": 1}), evaluation_file=file)
    result = main(config)
    kept = (config.results_dir / EVALUATION_FILE).read_text().splitlines()
    assert sorted(map(str, map(json.loads, kept))) == sorted(map(str, aside))
    rows = result["rows"]
    assert (rows["trained"], rows["held_out"], rows["left_out"]) == (21, 4, 3)
    assert result["held_out"]["rows"] == 4
    digest = published(result, "metrics.json")["evaluation_data"]
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    write_rows(file, aside[1:])
    assert main(config)["rows"]["left_out"] == 2


def test_evaluation_data_that_asks_all_that_is_to_be_learned_is_refused(
    runs: Runs, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "aside.jsonl", chats(24))
    config = replace(runs.config(DatasetConfig={}), evaluation_file=file)
    with pytest.raises(DatasetRowsInvalid, match="asks what each of them asks"):
        main(config)


def test_what_serves_has_held_out_is_held_out_by_its_successor(runs: Runs) -> None:
    before = runs.config("before", DatasetConfig={"train_test_split": 0.75})
    main(before)
    follows = runs.config("follows", DatasetConfig={}, training={"max_steps": 1})
    result = main(replace(follows, serving=before.results_dir / "adapter"))
    assert published(result, "metrics.json")["held_out_share"] == 0.25


def test_too_few_rows_to_hold_any_out_are_told(runs: Runs, tmp_path: Path) -> None:
    few = replace(runs, train_file=write_rows(tmp_path / "few.jsonl", chats(9)))
    result = main(few.config(DatasetConfig={}, training={"max_steps": 1}))
    assert (result["rows"]["trained"], result["held_out"]) == (9, None)
    assert result["held_out_missing"] == "of fewer than 10 rows none is held out"


def test_a_held_out_answer_that_is_cut_off_is_told_and_stops_nothing(
    runs: Runs, tmp_path: Path
) -> None:
    long = [chat(f"{number} " * 60, "It is.") for number in range(40)]
    rows = [*long, *chats(9)]
    seed = next(
        seed
        for seed in range(100)
        if max(split_rows(rows, DatasetSettings(shuffle_seed=seed)).measured) < len(long)
    )
    some = replace(runs, train_file=write_rows(tmp_path / "long.jsonl", rows))
    training = {"max_steps": 1, "max_length": 60}
    result = main(some.config(DatasetConfig={"shuffle_seed": seed}, training=training))
    assert result["held_out_missing"] == "no row that was held out has an answer within max_length"


def test_without_held_out_rows_nothing_is_compared(runs: Runs) -> None:
    result = main(runs.config(training={"max_steps": 1}))
    assert (result["held_out"], result["held_out_missing"]) == (None, None)


def test_held_out_rows_do_not_change_what_is_learned(runs: Runs) -> None:
    """Evaluations between steps leave the run as it is."""
    split = {"train_test_split": 0.75}
    plain = runs.config("plain", DatasetConfig=split)
    watched = runs.config(
        "watched", DatasetConfig=split, training={"eval_strategy": "steps", "eval_steps": 2}
    )
    main(plain)
    evaluated = published(main(watched), "metrics.json")["history"]
    assert [line["loss"] for line in evaluated if "loss" in line] == losses(plain)
    assert sum("eval_loss" in line for line in evaluated) == 3


def test_packed_rows_do_not_see_each_other(runs: Runs) -> None:
    """With the learning rate at almost nothing, packing leaves the mean loss as it was."""
    still = {"learning_rate": 1e-12, "max_steps": 1}
    rows = {"per_device_train_batch_size": 24}
    alone = runs.config("alone", training=still | rows)
    packed = runs.config(
        "packed",
        training=still | {"packing": True, "max_length": 4096, "per_device_train_batch_size": 1},
    )
    main(alone)
    main(packed)
    assert losses(packed) == pytest.approx(losses(alone), rel=1e-5)


def test_steps_and_memory_are_planned_for_rows_as_they_are_packed(runs: Runs) -> None:
    asked = {"packing": True, "max_length": 256, "num_train_epochs": 2}
    result = main(runs.config(training=asked | {"per_device_train_batch_size": 1}))
    (told,) = result["notes"]
    planned = re.fullmatch(r"24 rows in (\d+) packed rows: (\d+) steps instead of 48", told)
    assert planned
    assert int(planned[2]) == result["steps"] == 2 * int(planned[1]) < 48


@pytest.mark.parametrize(
    ("training", "expected"), [({"packing": True}, [200, 200]), ({}, [40, 60, 100, 200])]
)
def test_rows_are_packed_up_to_max_length_or_as_they_are(
    training: dict[str, Any], expected: list[int]
) -> None:
    settings = TrainingConfig(method="lora", training=training | {"max_length": 200})
    assert sorted(packed_lengths(settings, [40, 60, 100, 200])) == expected


def test_accumulated_passes_are_one_large_one(runs: Runs) -> None:
    large = runs.config("large", training={"per_device_train_batch_size": 24, "max_steps": 2})
    small = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4, "max_steps": 2}
    main(large)
    parts = runs.config("parts", training=small)
    main(parts)
    assert losses(parts) == pytest.approx(losses(large), rel=1e-4)


def test_recomputed_activations_give_the_same_losses(runs: Runs) -> None:
    config = runs.config(training={"gradient_checkpointing": True})
    main(config)
    assert losses(config) == pytest.approx(PINNED, abs=2e-3)


def test_quantised_weights_are_trained_over(runs: Runs) -> None:
    result = main(runs.config(method="qlora", training={"num_train_epochs": 3}))
    history = published(result, "metrics.json")["history"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    weights = load_file(Path(result["adapter"]) / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_what_was_quantised_and_adapted_is_counted(runs: Runs) -> None:
    result = main(runs.config(method="qlora", training={"max_steps": 1}))
    counted = WeightCounts(**result["weights"])
    base = AutoModelForCausalLM.from_pretrained(runs.weights_dir)
    layers = [part.weight.numel() for part in base.model.layers.modules() if hasattr(part, "bias")]
    assert (counted.total, counted.quantized) == (base.num_parameters(), sum(layers))
    assert (counted.adapted, counted.layers, counted.bits) == (sum(layers), 14, 4)
    adapter = load_file(Path(result["adapter"]) / "adapter_model.safetensors")
    assert counted.trained == sum(weight.numel() for weight in adapter.values())
    assert str(counted).startswith("4-bit: 68 % of the weights; adapters on 14 layers, 68 %")


def test_a_model_of_which_less_than_half_can_be_quantised_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", chats(24))
    experts = Runs(tmp_path, write_tiny_experts(tmp_path / "experts"), rows)
    with pytest.raises(ModelNotSupported, match="tests/tiny is to be tuned by qlora; only 13%"):
        main(experts.config(method="qlora"))


@pytest.mark.parametrize("settings", [{"label_smoothing_factor": 0.1}, {"loss_type": "dft"}])
@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor.*:FutureWarning")
def test_other_losses_are_left_to_trl(runs: Runs, settings: dict[str, Any]) -> None:
    config = runs.config(training=settings)
    main(config)
    assert losses(config) != pytest.approx(PINNED, abs=2e-3)


@pytest.mark.parametrize(
    ("config", "is_ours"),
    [
        (GraniteConfig(**TINY, logits_scaling=0.25), False),
        (Gemma2Config(**TINY, head_dim=16, final_logit_softcapping=0.5), False),
        (CohereConfig(**TINY, logit_scale=4.0), False),
        (LlamaConfig(**TINY), True),
    ],
    ids=lambda each: getattr(each, "model_type", None),
)
def test_the_loss_is_what_the_model_says_whatever_its_head_does(
    config: PretrainedConfig, is_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if no setting told that the head does more than a product."""
    monkeypatch.setattr(trainer, "has_plain_head", lambda *_: True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = write_rows(tmp_path / "train.jsonl", chats(1))
    run = Runs(tmp_path, tmp_path / "model", rows).config(training={"max_steps": 1})
    result = main(run)
    (row,) = tokenise(chats(1), tiny_tokenizer(), max_length=1024).examples
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    said = model.eval()(input_ids=ids, labels=labels).loss.item()
    assert losses(run) == pytest.approx([said], rel=1e-3)
    assert any("the loss is the model's own" in note for note in result["notes"]) is not is_ours


def test_a_loss_that_is_no_number_ends_the_run_with_advice(runs: Runs) -> None:
    wild = {"weight_decay": 1e30, "num_train_epochs": 4}
    with pytest.raises(TrainingDiverged, match=r"lower TrainingArguments\.learning_rate"):
        main(runs.config(training=wild))


def test_a_combination_that_trl_refuses_is_told(runs: Runs) -> None:
    asked = {"save_strategy": "steps", "save_steps": 1.5}
    with pytest.raises(InvalidTuningConfig, match="trl refuses them"):
        main(runs.config(training=asked))


def test_what_a_run_cannot_follow_is_left_out_and_told() -> None:
    asked = {"eval_strategy": "steps", "eval_steps": 2, "torch_compile": True}
    config = TrainingConfig(method="lora", training=asked)
    followed, notes = without_effect(config, on_gpu=False, held_out=0)
    assert followed.training == {}
    assert notes == [
        "TrainingArguments.torch_compile has no effect on a CPU",
        "TrainingArguments.eval_strategy has no effect: no rows are held out",
    ]
    assert without_effect(config, on_gpu=True, held_out=1) == (config, [])


def test_a_chat_template_of_the_users_is_trained_with_and_published(runs: Runs) -> None:
    asked = runs.config(training={"max_steps": 1}, ModelConfig={"chat_template": LLAMA3})
    adapter = Path(main(asked)["adapter"])
    assert (adapter / "chat_template.jinja").read_text() == LLAMA3


def test_a_chat_template_that_is_no_file_is_refused(runs: Runs) -> None:
    with pytest.raises(InvalidTuningConfig, match="there is no such file"):
        main(runs.config(ModelConfig={"chat_template": "/mnt/config/mine.jinja"}))


def test_a_run_that_does_not_fit_is_refused_with_the_numbers(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "available_memory_gib", lambda **_: 0.5)
    with pytest.raises(ModelDoesNotFit) as raised:
        main(runs.config())
    assert "needs about 1.0 GiB; 0.5 GiB are available; use method qlora" in str(raised.value)


def test_a_granted_gpu_that_is_not_there_ends_the_run(runs: Runs) -> None:
    with pytest.raises(GpuIncompatible, match=r"1 GPU\(s\) were given to this pod"):
        main(replace(runs.config(), gpus=1))


def test_a_run_that_asks_for_the_cpu_needs_no_gpu(runs: Runs) -> None:
    config = runs.config(training={"use_cpu": True, "max_steps": 1})
    assert main(replace(config, gpus=1))["steps"] == 1


def test_plain_text_and_completions_are_trained_on(runs: Runs, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} is", "completion": f" {n}"} for n in range(4)]
    texts = [{"text": f"number {n}"} for n in range(4)]
    file = write_rows(tmp_path / "mixed.jsonl", [*rows, *texts, *chats(4)])
    mixed = Runs(tmp_path, weights_dir=runs.weights_dir, train_file=file)
    assert main(mixed.config(training={"max_steps": 2}))["rows"]["trained"] == 12


def test_checkpoints_that_were_asked_for_are_kept(runs: Runs) -> None:
    config = runs.config(training={"save_strategy": "steps", "save_steps": 2})
    main(config)
    kept = (config.results_dir / "checkpoints").iterdir()
    assert sorted(path.name for path in kept) == ["checkpoint-4", "checkpoint-6"]


def test_what_was_accepted_and_is_not_used_is_logged(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    main(runs.config(training={"max_steps": 1}, DataCollator={"mlm": True}))
    assert "setting unused DataCollator.mlm is not used: causal models" in caplog.text


def test_metrics_are_written_last_and_hold_the_result(runs: Runs) -> None:
    config = runs.config(training={"max_steps": 1})
    result = main(config)
    written = json.loads((config.results_dir / "metrics.json").read_text())
    assert written["result"] == result


def test_a_quantised_run_compares_held_out_rows_too(runs: Runs) -> None:
    split = {"train_test_split": 0.75}
    model = {"torch_dtype": "auto"}
    asked = runs.config(
        method="qlora", ModelConfig=model, DatasetConfig=split, training={"num_train_epochs": 4}
    )
    held_out = main(asked)["held_out"]
    assert held_out["loss_after"] < held_out["loss_before"]
    assert held_out["sample"]["after"] != held_out["sample"]["before"]


SPLIT = {"train_test_split": 0.5}
# The second step of so high a rate undoes the first, and more.
SPOILT = {"learning_rate": 1.0, "max_steps": 2, "lr_scheduler_type": "constant"}


def test_an_adapter_that_is_worse_than_the_base_is_not_published_unless_it_may(runs: Runs) -> None:
    config = runs.config(DatasetConfig=SPLIT, training=SPOILT)
    for _ in range(2):  # a second start finds what the first has made
        with pytest.raises(
            NothingLearned, match=r"which is worse than before tuning \(95 % interval"
        ) as refused:
            main(config)
    assert f"the adapter lies in {config.results_dir}/adapter" in refused.value.fix
    allowed = main(replace(config, policy=TrainingPolicy(worse="warn")))
    assert allowed["held_out"]["loss_after"] > allowed["held_out"]["loss_before"]
    assert Path(allowed["adapter"]).is_dir()


def test_where_something_is_evaluated_the_best_adapter_is_published(runs: Runs) -> None:
    watched = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 64}
    result = main(runs.config(DatasetConfig=SPLIT, training=SPOILT | watched))
    history = published(result, "metrics.json")["history"]
    evaluated = [line["eval_loss"] for line in history if "eval_loss" in line]
    assert evaluated[-1] > min(evaluated) + 0.01
    assert result["held_out"]["loss_after"] == pytest.approx(min(evaluated), abs=0.005)


def test_of_quantised_training_held_out_rows_are_measured_on_what_is_served(runs: Runs) -> None:
    result = main(runs.config(method="qlora", DatasetConfig=SPLIT, training={"max_steps": 1}))
    held_out = HeldOut(**result["held_out"])
    assert held_out.base == AS_SERVED
    kept = runs.folder / "results" / EVALUATION_FILE
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(runs.weights_dir, dtype=preferred_dtype("cpu"))
    model.eval()  # type: ignore[no-untyped-call]
    losses, tokens = [], []
    for one in tokenise(rows, tiny_tokenizer(), max_length=1024).examples:
        ids, labels = torch.tensor([one.input_ids]), torch.tensor([one.labels])
        losses.append(model(input_ids=ids, labels=labels).loss.item() * one.answer_tokens)
        tokens.append(one.answer_tokens)
    assert held_out.loss_before == pytest.approx(sum(losses) / sum(tokens), abs=2e-3)


def test_where_what_is_served_does_not_fit_the_figures_say_what_they_were_taken_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heldout, "available_memory_gib", lambda: 0.5)
    result = main(runs.config(method="qlora", DatasetConfig=SPLIT, training={"max_steps": 1}))
    held_out = HeldOut(**result["held_out"])
    assert held_out.base == "quantised, as trained on (1.1 GiB needed, 0.5 GiB free)"
    assert "measured on weights that are quantised" in held_out.verdict
