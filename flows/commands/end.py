"""`kaitoflow stop` and `kaitoflow delete`."""

import sys

from flows.places.base import find_workspace
from flows.places.place import Place, open_objects
from tasks.contract.errors import InvalidWorkspace


def stop_workspace(name: str, *, namespace: str | None, place: Place) -> int:
    """Stop what runs for a Workspace; its files stay, so that `run` resumes."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        stopped = objects.stop(stored.workspace, _tell)
    what = ", ".join(stopped) if stopped else "nothing was running"
    sys.stdout.write(f"workspace/{name} stopped ({what})\n")
    return 0


def delete_workspace(name: str, *, namespace: str | None, yes: bool, place: Place) -> int:
    """Stop a Workspace and forget it with its files."""
    with open_objects(place) as objects:
        stored = find_workspace(objects, name, namespace)
        if not yes and not _confirmed(name):
            return 1
        objects.delete(stored.workspace, _tell)
    sys.stdout.write(f"workspace/{name} deleted\n")
    return 0


def _tell(waits_for: str) -> None:
    sys.stderr.write(f"{waits_for}\n")
    sys.stderr.flush()


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidWorkspace(
            f"workspace {name} was to be deleted",
            "nobody is there to confirm it",
            "add --yes",
        )
    answer = input(f"Delete workspace {name} with its logs, checkpoints and adapter? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
