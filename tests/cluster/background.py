"""The tests' cluster in the background, for a person to look at: `make cluster-up`.

Run as `python -m tests.cluster.background up`, `up --nodes` or `down`. Its pid lies in
build/cluster/pid, its logs beside it; `down` removes everything that was kept in it.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

FOLDER = Path(__file__).parents[2] / "build" / "cluster"
_UP_LIMIT_S = 1800.0  # the first time, with every program to build
_DOWN_LIMIT_S = 60.0


def up(*, nodes: bool) -> None:
    """Start it unless it runs, and print how to speak to it."""
    said = FOLDER / "said"
    if _running() is None:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        _start("tests.cluster.cluster" if nodes else "tests.cluster.control_plane", said)
    sys.stdout.write(said.read_text())


def down() -> None:
    """Stop it and remove what it kept; nothing to do when it does not run."""
    if holder := _running():
        holder.terminate()
        holder.wait(_DOWN_LIMIT_S)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _start(module: str, said: Path) -> None:
    log = FOLDER / "log"
    with log.open("wb") as errors, said.open("wb") as output:
        holder = subprocess.Popen(
            [sys.executable, "-m", module, FOLDER / "files"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    (FOLDER / "pid").write_text(str(holder.pid))
    deadline_s = time.monotonic() + _UP_LIMIT_S
    while time.monotonic() < deadline_s and holder.poll() is None:
        if said.stat().st_size:
            return
        time.sleep(0.2)
    holder.terminate()
    raise SystemExit(f"the cluster should be up, but is not; see {log}:\n{log.read_text()}")


def _running() -> psutil.Process | None:
    try:
        holder = psutil.Process(int((FOLDER / "pid").read_text()))
        ours = str(FOLDER / "files") in holder.cmdline()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return holder if ours else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--nodes", action="store_true", help="with real nodes, as root")
    asked = parser.parse_args()
    if asked.action == "up":
        up(nodes=asked.nodes)
    else:
        down()
