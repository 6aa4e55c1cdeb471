import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers

from serving.weights import gguf_folder
from tests.bench.serving.gguf_file import OtherModel, write_gguf
from tests.serving import toy


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a tokenizer like SmolLM2's, and what comes back out of the file made of it."""
    folder = tmp_path_factory.mktemp("gguf")
    before = toy.make_model(folder / "before")
    tokenizer = Tokenizer.from_file(str(before / "tokenizer.json"))
    splits = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.save(str(before / "tokenizer.json"))
    (after := folder / "after").mkdir()
    gguf_folder.write(write_gguf(before, folder / "model.gguf"), into=after)
    return before, after


def test_the_weights_are_the_same_in_bfloat16(folders: tuple[Path, Path]) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before)


def test_the_tokenizer_and_its_template_are_the_same(folders: tuple[Path, Path]) -> None:
    before, after = (json.loads((each / "tokenizer.json").read_text()) for each in folders)
    for part in ("vocab", "merges"):
        assert before["model"][part] == after["model"][part]
    assert before["added_tokens"] == after["added_tokens"]
    assert (folders[1] / "chat_template.jinja").read_text() == toy.CHATML


def test_the_shape_is_the_same(folders: tuple[Path, Path]) -> None:
    before, after = (json.loads((each / "config.json").read_text()) for each in folders)
    assert {name: before[name] for name in after} | {"dtype": "bfloat16"} == after


def test_a_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OtherModel, match="a llama whose tokenizer splits by nothing"):
        write_gguf(toy.make_model(tmp_path / "toy"), tmp_path / "model.gguf")
