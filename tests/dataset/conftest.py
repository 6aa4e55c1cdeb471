"""What the dataset's tests share: a loopback web server and a toy tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.dataset.web import Bench, Web, running_web

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}"
    "<s> {{ message['role'] }} {{ message['content'] }} {{ eos_token }} {% endfor %}"
)


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose tokens are words; 4 tokens for a message of one word."""
    folder = tmp_path_factory.mktemp("toy")
    words = models.WordLevel({"?": 0, "<s>": 1, "</s>": 2}, unk_token="?")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def bench(tmp_path: Path, toy_weights: Path) -> Bench:
    return Bench(tmp_path, toy_weights)


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as running:
        yield running
