import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.serving import stand_in
from tests.bench.serving.servers import Running, Server
from tests.cluster.ports import free_port


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server that streams words at once, started."""
    server = Server(
        name="stand_in",
        command=[sys.executable, stand_in.__file__, str(port := free_port())],
        port=port,
        models=["first", "second"],
        length=lambda _: {},
        version="stand-in 1",
        settings="as it is",
    )
    process = Running(server, logs=tmp_path)
    try:
        process.start()
        yield process
    finally:
        process.stop()
