"""The program that measures, on a tiny model: the same rows for each model, and the right ones."""

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tasks.contract.errors import AdapterMismatch
from tasks.contract.gate import Gate, Metric
from tasks.contract.gate_command import GateCommand, environment_of
from tasks.contract.judge import Judge
from tasks.contract.programs.evaluation import CommandConfig, EvaluationConfig, Measured
from tasks.evaluation.pod.command import run_command
from tasks.evaluation.pod.measure import evaluate
from tasks.evaluation.scores import with_scores
from tests.dataset.web import Handler, running_web
from tests.tuning.tiny import chat, chats, tiny_tokenizer, write_rows, write_tiny_experts

ROWS = chats(6)


def adapter(folder: Path, weights: Path, *, scale: float = 0.5) -> Path:
    """An adapter that changes what the model says."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    wanted = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, wanted)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    adapted.save_pretrained(str(folder))
    return folder


def config(tmp_path: Path, weights: Path, **changes: object) -> EvaluationConfig:
    given: dict[str, object] = {
        "weights_dir": weights,
        "rows_file": write_rows(tmp_path / "rows.jsonl", ROWS),
        "candidate": adapter(tmp_path / "candidate", weights),
        "method": "lora",
        "max_new_tokens": 8,
    }
    return EvaluationConfig(**given | changes)  # type: ignore[arg-type]


def plain_losses(weights: Path) -> list[float]:
    """As transformers has them: the mean over the answer and the token that ends it."""
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    tokenizer = tiny_tokenizer()
    losses = []
    for row in ROWS:
        asked = str(
            tokenizer.apply_chat_template(
                row["messages"][:-1], tokenize=False, add_generation_prompt=True
            )
        )
        answer = f"{row['messages'][-1]['content']}<|im_end|>"
        before, whole = (list(tokenizer(text)["input_ids"]) for text in (asked, asked + answer))
        labels = [-100] * len(before) + whole[len(before) :]
        with torch.no_grad():
            told = model(input_ids=torch.tensor([whole]), labels=torch.tensor([labels]))
        losses.append(float(told.loss))
    return losses


def test_each_row_has_the_mean_loss_of_its_answer(tmp_path: Path, tiny_weights: Path) -> None:
    told = evaluate(config(tmp_path, tiny_weights))
    assert told.base.losses == pytest.approx(plain_losses(tiny_weights), abs=0.02)
    assert told.candidate.losses != told.base.losses
    assert told.serving is None


def test_an_adapter_measured_beside_another_has_the_figures_that_it_has_alone(
    tmp_path: Path, tiny_weights: Path
) -> None:
    serving = adapter(tmp_path / "serving", tiny_weights, scale=0.1)
    alone = evaluate(config(tmp_path, tiny_weights, candidate=serving))
    both = evaluate(config(tmp_path, tiny_weights, serving=serving))
    assert both.serving == alone.candidate != both.candidate
    assert both.base == alone.base
    assert both.rows_digest == alone.rows_digest


def test_answers_are_written_to_as_many_rows_as_wanted_and_the_first_rows_are_measured(
    tmp_path: Path, tiny_weights: Path
) -> None:
    told = evaluate(config(tmp_path, tiny_weights, max_rows=4, answers=3)).candidate
    assert (len(told.losses), len(told.rouge_l), told.sanity.asked) == (4, 3, 3)
    assert told.sanity.endless == 3


def test_rows_with_several_answers_are_measured_and_not_asked(
    tmp_path: Path, tiny_weights: Path
) -> None:
    rows = write_rows(tmp_path / "long.jsonl", [chat("a?", "b.", "c?", "d."), *ROWS])
    told = evaluate(config(tmp_path, tiny_weights, rows_file=rows)).base
    assert (len(told.losses), told.sanity.asked) == (7, 6)


def says(folder: Path, *, seed: int, aside: str = "") -> Path:
    metrics = {
        "settings": {"dataset": {"shuffle_seed": seed}},
        "held_out_share": 0.1,
        "evaluation_data": aside,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_it_is_told_where_what_serves_may_have_learned_the_rows(
    tmp_path: Path, tiny_weights: Path
) -> None:
    candidate = says(adapter(tmp_path / "a", tiny_weights), seed=1)
    same = says(adapter(tmp_path / "b", tiny_weights), seed=1)
    other = says(adapter(tmp_path / "c", tiny_weights), seed=2)
    notes = [
        evaluate(
            config(tmp_path, tiny_weights, candidate=candidate, serving=serving, answers=0)
        ).notes
        for serving in (same, other, None)
    ]
    assert [len(each) for each in notes] == [0, 1, 0]
    assert notes[1][0].startswith("what serves was tuned with other rows held out")


def test_it_is_told_where_what_serves_was_tuned_before_the_evaluation_data_was_named(
    tmp_path: Path, tiny_weights: Path
) -> None:
    candidate = says(adapter(tmp_path / "a", tiny_weights), seed=1, aside="new")
    same = says(adapter(tmp_path / "b", tiny_weights), seed=2, aside="new")
    before = says(adapter(tmp_path / "c", tiny_weights), seed=1)
    notes = [
        evaluate(
            config(tmp_path, tiny_weights, candidate=candidate, serving=serving, answers=0)
        ).notes
        for serving in (same, before)
    ]
    assert [len(each) for each in notes] == [0, 1]


def test_of_no_rows_there_are_no_figures(tmp_path: Path, tiny_weights: Path) -> None:
    none = write_rows(tmp_path / "none.jsonl", [])
    told = evaluate(config(tmp_path, tiny_weights, rows_file=none))
    assert (told.base, told.candidate) == (Measured(), Measured())


def test_a_judge_grades_what_each_model_writes(tmp_path: Path, tiny_weights: Path) -> None:
    asked: list[str] = []

    def grade(handler: Handler) -> None:
        asked.append(json.loads(handler.body())["messages"][-1]["content"])
        handler.answer(200, b'{"choices": [{"message": {"content": "7"}}]}')

    with running_web() as web:
        web.serve("/v1/chat/completions", grade)
        judge = Judge(url=f"{web.address}/v1", model="strict-7b")
        changes = {"judge": judge, "allow_local_addresses": True, "answers": 3}
        told = evaluate(config(tmp_path, tiny_weights, **changes))
    assert told.base.grades == told.candidate.grades == (0.7,) * 3
    assert len(asked) == 6
    first = ROWS[0]["messages"]
    assert sum(f"user: {first[0]['content']}\n</question>" in text for text in asked) == 2
    assert sum(f"<expected>\n{first[-1]['content']}\n" in text for text in asked) == 2


SCORING = """
import json, os
rows = [json.loads(line) for line in open(os.environ["KAITOFLOW_GATE_ROWS"], encoding="utf-8")]
longest = {name: [len(row["answers"][name]) for row in rows] for name in ("base", "candidate")}
print(json.dumps(longest))
"""


def test_a_command_scores_what_each_model_wrote(tmp_path: Path, tiny_weights: Path) -> None:
    answers_file = tmp_path / "answers.jsonl"
    asked = config(tmp_path, tiny_weights, answers=4, answers_file=answers_file)
    measured = evaluate(asked)
    rows = [json.loads(line) for line in answers_file.read_text().splitlines()]
    assert [row["row"] for row in rows] == ROWS[:4]
    assert rows[0]["expected"] == ROWS[0]["messages"][-1]["content"]
    assert ROWS[0]["messages"][0]["content"] in rows[0]["question"]
    finds = environment_of(
        rows=answers_file, weights=asked.weights_dir, candidate=asked.candidate, serving=None
    )
    words = (sys.executable, "-c", SCORING)
    said = run_command(CommandConfig(image="", words=words, environment=finds)).said
    command = GateCommand(image="", words=words)
    scored = with_scores(measured, said, gate=Gate(metric=Metric.COMMAND), command=command)
    wrote = [row["answers"] for row in rows]
    assert scored.candidate.scores == tuple(len(each["candidate"]) for each in wrote)
    assert scored.base.scores == tuple(len(each["base"]) for each in wrote)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    other = write_tiny_experts(tmp_path / "experts")
    with pytest.raises(AdapterMismatch):
        evaluate(config(tmp_path, tiny_weights, candidate=adapter(tmp_path / "a", other)))
