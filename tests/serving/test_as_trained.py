"""An adapter that would be served otherwise than it was tuned is told, with the place."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from serving.metrics import Metrics
from serving.model.tokenizer import load_tokenizer
from serving.transformers_engine.engine import load_engine
from tasks.contract.as_trained import FILE, LIKELIEST, PROMPTS, read_as_trained
from tasks.contract.errors import AdapterInvalid, ServedDiffers
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tasks.tuning.pod.seen import keep_as_trained
from tests.serving import toy
from tests.serving.hot import load, names, root
from tests.serving.running import Running

# As the trainer does: names that a next transformers will drop are no news.
pytestmark = pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning")


@pytest.fixture
def tuned(toy_model: Path, tmp_path: Path) -> Path:
    """An adapter with its tokenizer, and with what it answers as the trainer writes it."""
    adapter = toy.make_adapter(tmp_path / "tuned", toy_model, seed=3)
    tokenizer = load_tokenizer(toy_model)
    tokenizer.save_pretrained(adapter)
    base = LlamaForCausalLM.from_pretrained(toy_model)
    keep_as_trained(
        PeftModel.from_pretrained(base, adapter),
        tokenizer,
        adapter=adapter,
        base_model=toy.MODEL_ID,
        base_revision="main",
        dtype=torch.float32,
    )
    return adapter


def served(weights: Path, adapter: Path, **changes: Any) -> None:
    """Load a server with the adapter, and close it."""
    source = replace(AdapterSource("tuned", adapter), **changes)
    config = ServerConfig(weights_dir=weights, served_model_name="toy", adapters=(source,))
    load_engine(config, metrics=Metrics(), dtype=torch.float32).close()


def test_what_is_kept_is_eight_prompts_with_their_tokens_and_values(tuned: Path) -> None:
    trained = read_as_trained(tuned)
    assert trained
    assert [seen.prompt for seen in trained.seen] == [*PROMPTS]
    assert {len(seen.likeliest) for seen in trained.seen} == {LIKELIEST}
    assert (trained.dtype, trained.is_chat, trained.is_dated) == ("float32", True, False)


def test_an_adapter_that_answers_as_it_was_tuned_is_served(toy_model: Path, tuned: Path) -> None:
    served(toy_model, tuned)


def test_half_an_adapter_is_asked_for_its_tokens_alone(toy_model: Path, tuned: Path) -> None:
    served(toy_model, tuned, strength=0.5)


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def other_template(weights: Path, adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages[-1].content }} =>")


def other_tokenizer(weights: Path, adapter: Path) -> None:
    config = json.loads((weights / "tokenizer.json").read_text())
    config["model"]["merges"] = config["model"]["merges"][:20]
    (weights / "tokenizer.json").write_text(json.dumps(config))


def other_base(weights: Path, adapter: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(weights)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (other_template, "the chat template: 'Hello!' is rendered otherwise"),
        (other_tokenizer, "the tokenizer: "),
        (other_base, "the weights, of the base (toy/llama@main there) or of the adapter: "),
    ],
)
def test_what_differs_is_told_with_its_place_before_anybody_is_answered(
    toy_model: Path, tuned: Path, tmp_path: Path, change: Callable[[Path, Path], None], place: str
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(toy_model, weights)
    torch.manual_seed(0)
    change(weights, tuned)
    with pytest.raises(ServedDiffers) as told:
        served(weights, tuned)
    assert place in str(told.value)
    (tuned / FILE).unlink()
    served(weights, tuned)


def test_a_template_that_tells_the_day_is_not_held_to_it(toy_model: Path, tuned: Path) -> None:
    edit(tuned / FILE, lambda kept: kept | {"is_dated": True})
    other_template(toy_model, tuned)
    served(toy_model, tuned)


def test_what_cannot_be_read_is_refused(toy_model: Path, tuned: Path) -> None:
    (tuned / FILE).write_text('{"seen": 7}')
    with pytest.raises(AdapterInvalid, match="cannot be read"):
        served(toy_model, tuned)


def test_an_adapter_that_comes_while_the_server_serves_is_asked_too(
    hot: Running, tuned: Path
) -> None:
    shutil.copytree(tuned, root(hot) / "tuned")
    assert load(hot, "tuned", "tuned").status_code == 200
    shutil.copytree(tuned, root(hot) / "other")
    edit(root(hot) / "other" / FILE, worse)
    refused = load(hot, "other", "other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "ServedDiffers")
    assert names(hot) == ["toy", "tuned"]
    shutil.copy(tuned / FILE, root(hot) / "other" / FILE)
    assert load(hot, "other", "other").status_code == 200


def worse(kept: dict[str, Any]) -> dict[str, Any]:
    """What was kept, of an adapter that was a little surer of its tokens."""
    for seen in kept["seen"]:
        seen["likeliest"] = [[token, value + 0.3] for token, value in seen["likeliest"]]
    return kept
