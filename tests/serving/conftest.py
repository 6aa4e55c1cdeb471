import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from serving.model.cpus import share_cpus

share_cpus()  # before torch is there: beside other tests OpenMP's long spinning stops everything

from serving.weights.marker import read_marker  # noqa: E402
from tasks.contract.programs.serving import AdapterSource, ServerConfig  # noqa: E402
from tests.models import smollm2  # noqa: E402
from tests.serving import toy  # noqa: E402
from tests.serving.running import REAL_VLLM, Running, by, serve  # noqa: E402

collect_ignore = [] if REAL_VLLM else ["vllm_engine/test_real.py"]

# Of a test that holds what is true of any engine: it runs with each.
BOTH = "both_engines"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test run with the engines that it is about."""
    if "engine" not in metafunc.fixturenames:
        return
    holds_for_both = metafunc.definition.get_closest_marker(BOTH) is not None
    engines = ["transformers", *(["vllm"] if holds_for_both else [])]
    if REAL_VLLM:
        engines = engines[1:]
    metafunc.parametrize("engine", engines, scope="session")


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; where a real vLLM is asked, one that it can compute."""
    return smollm2() if REAL_VLLM else toy.make_model(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def toy_adapters(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters; the second brings a chat template of its own."""
    folder = tmp_path_factory.mktemp("adapters")
    marker = read_marker(toy_model)
    assert marker
    first, second = (
        toy.make_adapter(folder / name, toy_model, seed=seed, base=marker.model_id)
        for seed, name in enumerate(("first", "second"), start=1)
    )
    (second / "chat_template.jinja").write_text("{{ messages[-1].content }} =>")
    return first, second


@pytest.fixture(scope="session")
def server(engine: str, toy_model: Path, toy_adapters: tuple[Path, Path]) -> Iterator[Running]:
    """Base model `toy`, adapters `first`, `second.v2` and `faint` (the first one at strength 0)."""
    first, second = toy_adapters
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        adapters=(
            AdapterSource("first", first),
            AdapterSource("second.v2", second),
            AdapterSource("faint", first, strength=0.0),
        ),
        default_model="first",
        max_concurrency=4,
        max_queue=2,
        max_context_tokens=toy.CONTEXT_TOKENS,
    )
    with serve(by(engine, config)) as running:
        yield running


@pytest.fixture
def hot(
    engine: str, toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path
) -> Iterator[Running]:
    """A server that began with the base alone, and adapters `first` and `second` in its folder."""
    root = tmp_path / "adapters"
    for name, folder in zip(("first", "second"), toy_adapters, strict=True):
        shutil.copytree(folder, root / name)
    key_file = tmp_path / "key"
    key_file.write_text("open-sesame\n")
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        admin_key_file=key_file,
        adapters_dir=root,
        max_concurrency=4,
    )
    with serve(by(engine, config)) as running:
        yield running


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until something is so; fail when it is not within seconds."""

    def wait(is_so: Callable[[], bool], *, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < deadline, "did not come true in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
async def many(server: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for many requests at once."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client
