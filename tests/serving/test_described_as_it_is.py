"""Requests made up from the document at /openapi.json, by Schemathesis: fitting and not."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tests.serving.hot import KEY
from tests.serving.running import Running, serve

REQUESTS_PER_ENDPOINT = 15


@pytest.fixture
def terse(toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path) -> Iterator[Running]:
    """A server that an administrator may ask all, and whose answers are short."""
    root = tmp_path / "adapters"
    shutil.copytree(toy_adapters[0], root / "first")
    key_file = tmp_path / "key"
    key_file.write_text("open-sesame\n")
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        adapters=(AdapterSource("first", root / "first"),),
        admin_key_file=key_file,
        adapters_dir=root,
        max_context_tokens=64,
    )
    with serve(config) as running:
        yield running


def test_nothing_that_is_made_up_from_the_document_is_answered_otherwise(
    terse: Running, tmp_path: Path
) -> None:
    """No 5xx, answers as described, and all that is described as refused is refused."""
    command = (
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{terse.url}/openapi.json"),
        *("--header", f"Authorization: {KEY['Authorization']}"),
        *("--phases", "fuzzing", "--max-examples", str(REQUESTS_PER_ENDPOINT), "--seed", "1"),
        # What goes together (either prompt or messages) is more than a schema says.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--continue-on-failure", "--no-shrink", "--generation-database", "none", "--no-color"),
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(map(len, terse.client.get("/openapi.json").json()["paths"].values()))
    assert f"Tested: {operations}" in done.stdout
