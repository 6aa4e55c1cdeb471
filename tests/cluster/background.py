"""The tests' cluster in the background, for a person to look at: `make cluster-up`.

Run as `python -m tests.cluster.background up` or `down`. Its pid lies in build/cluster/pid, its
logs beside it; `down` removes everything that was kept in it.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.cluster.control_plane import ADMIN_KUBECONFIG

FOLDER = Path(__file__).parents[2] / "build" / "cluster"
_UP_LIMIT_S = 1800.0  # the first time, with every program to build
_DOWN_LIMIT_S = 60.0


def up() -> None:
    """Start it unless it runs, and print how to speak to it."""
    kubeconfig, ready = FOLDER / ADMIN_KUBECONFIG, FOLDER / "ready"
    if _running() is None:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        _start(ready)
    sys.stdout.write(f"export KUBECONFIG={kubeconfig}\n")


def down() -> None:
    """Stop it and remove what it kept; nothing to do when it does not run."""
    if holder := _running():
        holder.terminate()
        holder.wait(_DOWN_LIMIT_S)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _start(ready: Path) -> None:
    log = FOLDER / "log"
    with log.open("wb") as output, ready.open("wb") as said:
        holder = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.control_plane", FOLDER],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=output,
            start_new_session=True,
        )
    (FOLDER / "pid").write_text(str(holder.pid))
    deadline_s = time.monotonic() + _UP_LIMIT_S
    while time.monotonic() < deadline_s and holder.poll() is None:
        if ready.stat().st_size:
            return
        time.sleep(0.2)
    holder.terminate()
    raise SystemExit(f"the cluster should be up, but is not; see {log}:\n{log.read_text()}")


def _running() -> psutil.Process | None:
    try:
        holder = psutil.Process(int((FOLDER / "pid").read_text()))
        ours = str(FOLDER) in holder.cmdline()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return holder if ours else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    {"up": up, "down": down}[parser.parse_args().action]()
