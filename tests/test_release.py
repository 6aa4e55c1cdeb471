"""The workflow that makes a release on a public CI: it is not run here, but looked at."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.build import tool

ROOT = Path(__file__).parent.parent
FILE = ROOT / ".github" / "workflows" / "release.yml"
TEXT = FILE.read_text()
JOBS: dict[str, Any] = yaml.safe_load(TEXT)["jobs"]


def test_actionlint_finds_no_fault() -> None:
    said = subprocess.run([tool("actionlint"), FILE], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def test_nothing_is_published_before_everything_holds() -> None:
    def needed(name: str) -> set[str]:
        needs = JOBS[name].get("needs", [])
        direct = [needs] if isinstance(needs, str) else needs
        return {*direct, *(each for job in direct for each in needed(job))}

    assert ".ci/run" in str(JOBS["test"])
    assert all("test" in needed(name) for name in JOBS if name != "test")


def test_a_job_may_do_what_it_names_and_nothing_else() -> None:
    assert yaml.safe_load(TEXT)["permissions"] == {}
    writes = {
        name: {what for what, right in job["permissions"].items() if right == "write"}
        for name, job in JOBS.items()
    }
    assert writes == {
        "test": set(),
        "images": {"packages", "id-token"},
        "chart": {"packages", "id-token"},
        "wheel": set(),
        "page": {"contents", "id-token"},
    }


def test_what_a_person_or_a_tag_says_never_becomes_a_command() -> None:
    """`${{ ... }}` in a script is pasted into it before the shell reads it."""
    scripts = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    assert scripts
    assert not [script for script in scripts if "${{" in script]


def test_all_that_is_published_is_signed_and_images_say_what_is_in_them() -> None:
    for name in ("images", "chart"):
        assert "cosign sign --yes" in str(JOBS[name])
    assert "cosign sign-blob" in str(JOBS["page"])
    assert "cosign attest --yes --type cyclonedx" in str(JOBS["images"])


def test_the_files_and_targets_that_it_names_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (?:--silent )?([a-z-]+)", TEXT)) <= targets
    assert all((ROOT / path).exists() for path in ("deployments/chart/values.yaml", ".ci/run"))
