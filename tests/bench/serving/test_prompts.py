from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.bench.serving.prompts import Prompts
from tests.serving import toy


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_model(tmp_path_factory.mktemp("model"))


def test_a_text_has_as_many_tokens_as_were_asked(weights: Path) -> None:
    text = Prompts(weights).text("a", tokens=1000)
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    assert len(tokenizer.encode(text).ids) == pytest.approx(1000, abs=2)


def test_no_prompt_begins_as_another(weights: Path) -> None:
    prompts = Prompts(weights)
    texts = [prompts.letter("0-1"), prompts.letter("1-1"), prompts.text("0-1", tokens=50)]
    texts.append(prompts.text("1-1", tokens=50))
    assert len({text[:12] for text in texts}) == len(texts)
