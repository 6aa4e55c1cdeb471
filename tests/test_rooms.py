"""The README's picture of the rooms is what the code is: each import runs along its arrows."""

import re
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

README = Path(__file__).parent.parent / "README.md"
_PACKAGES = ("flows", "serving", "tasks")
_CATALOGUES = {"presets", "skus"}
_OF_THEIR_OWN = _CATALOGUES | {"chat", "contract", "estimate", "platform", "remote", "settings"}
_STEPS = {"plan", "evaluation", "dataset", "tuning", "image", "inference", "nodes"}
Arrow = tuple[str, str]


def drawn() -> set[Arrow]:
    """The arrows of the picture, from room to room."""
    picture = README.read_text("utf-8").partition("```mermaid\nflowchart TB\n")[2]
    arrows = set()
    for line in picture.partition("```")[0].splitlines():
        stages = [re.findall(r"\w+", stage) for stage in line.split("-->")]
        for before, after in pairwise(stages):
            arrows |= {(one, other) for one in before for other in after}
    return arrows


def room(module: str) -> str:
    """The room of a module: its package or folder; what lies loose in tasks/ belongs together."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if package != "tasks" or not name:
        return package
    if name in _CATALOGUES:
        return "catalogues"
    return name if name in _OF_THEIR_OWN | _STEPS else "pods"


@pytest.fixture(scope="module")
def imports() -> dict[Arrow, str]:
    """From which room something is imported into which, with an example."""
    graph = grimp.build_graph(*_PACKAGES)
    found = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            arrow = room(importer), room(imported)
            found[arrow] = f"{importer} imports {imported}"
    return {arrow: told for arrow, told in found.items() if arrow[0] != arrow[1]}


def reached(start: str, arrows: set[Arrow]) -> set[str]:
    """Every room to which a way of arrows leads."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        here = ahead.pop()
        new = {other for one, other in arrows if one == here} - found
        found |= new
        ahead += new
    return found


def test_each_import_runs_along_the_arrows_of_the_picture(imports: dict[Arrow, str]) -> None:
    arrows = drawn()
    assert len(arrows) > 20
    beside = [told for (one, other), told in imports.items() if other not in reached(one, arrows)]
    assert beside == []


def test_each_arrow_of_the_picture_is_an_import(imports: dict[Arrow, str]) -> None:
    assert sorted(drawn() - imports.keys()) == []


def test_no_arrow_of_the_picture_runs_back_up() -> None:
    arrows = drawn()
    assert [one for one, _ in sorted(arrows) if one in reached(one, arrows)] == []
