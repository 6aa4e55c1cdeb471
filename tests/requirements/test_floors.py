"""No lock pins a package below the first version without a known advisory."""

import re

import pytest
from packaging.requirements import Requirement

from requirements.lock import FOLDER, NAMES

LINES = (FOLDER / "floors.txt").read_text().splitlines()
FLOORS = {
    floor.name: floor.specifier
    for floor in (Requirement(line.partition("#")[0]) for line in LINES if line[0] != "#")
}


@pytest.mark.parametrize("name", NAMES)
def test_each_lock_keeps_to_the_floors(name: str) -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (FOLDER / name).read_text(), re.MULTILINE))
    too_low = {each for each, floor in FLOORS.items() if each in pins and pins[each] not in floor}
    assert too_low == set()


def test_a_floor_is_of_a_package_that_is_locked_and_says_why() -> None:
    locked = re.findall(r"^([\w.-]+)==", (FOLDER / "all.txt").read_text(), re.MULTILINE)
    assert set(FLOORS) <= set(locked)
    assert all(re.search(r"  # CVE-\d{4}-\d+", line) for line in LINES if line[0] != "#")
