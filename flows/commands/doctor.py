"""`kaitoflow doctor`: what works here and what does not, each with its fix."""

import json
import sys

import yaml

from flows.places.place import Place, open_objects
from flows.view import console, print_checks


def examine_place(*, output: str, place: Place) -> int:
    """Print what was looked at; 1 when something does not work, 0 for warnings alone."""
    with open_objects(place) as objects:
        checks = objects.examine()
    failed = sum(check.result == "fail" for check in checks)
    if output in ("table", "wide"):
        print_checks(checks)
        number = f"{failed} of {len(checks)} looks found" if failed else "nothing was found"
        console().print(f"{number} to be in the way of a run.")
    else:
        shown = {"checks": [check.model_dump(mode="json", by_alias=True) for check in checks]}
        as_text = json.dumps(shown, indent=2) + "\n" if output == "json" else yaml.safe_dump(shown)
        sys.stdout.write(as_text)
    return 1 if failed else 0
