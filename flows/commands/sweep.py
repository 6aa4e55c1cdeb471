"""`kaitoflow sweep`: several settings side by side, and the best of them served."""

import sys
from collections.abc import Sequence
from pathlib import Path

from flows.commands.run import load_manifests
from flows.commands.show import columns
from flows.places.base import WrongUsage
from flows.places.local import LocalObjects
from flows.places.place import Place, open_objects
from tasks.contract.redaction import one_line
from tasks.contract.sweep import Tried, best, parse_sweep


def sweep_file(
    file: Path, asked: Sequence[str], *, push: bool, port: int | None, place: Place
) -> int:
    """Tune a file's Workspace with each combination and run it with the best; the exit code."""
    candidates = parse_sweep(asked)
    with open_objects(place) as objects:
        if not isinstance(objects, LocalObjects):
            raise WrongUsage(
                f"a sweep of {file} was asked for on a cluster",
                "a sweep tunes one setting after the other on this machine alone",
                "leave --platform away, or apply a Workspace for each of the settings",
            )
        from flows.places.local_run import sweep_here

        tried = sweep_here(load_manifests(file, objects), candidates, push=push, port=port)
    sys.stdout.write(f"\n{sweep_table(tried)}")
    return 0


def sweep_table(tried: Sequence[Tried]) -> str:
    """A line for each of the settings, with the one that is kept marked."""
    kept = best(tried)
    return columns(
        [
            {
                "SETTINGS": each.told,
                "BEFORE": "" if each.loss_before is None else f"{each.loss_before:.3f}",
                "AFTER": "" if each.loss is None else f"{each.loss:.3f}",
                "": "kept" if each is kept else one_line(each.why),
            }
            for each in tried
        ]
    )
