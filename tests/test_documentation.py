"""What the pages tell is true: commands are read by our command line, Workspaces by the plan."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.__main__ import app
from tasks.contract.artifacts import Node
from tasks.contract.workspace import parse_manifests
from tasks.plan.checks import make_plan
from tasks.plan.findings import Findings
from tasks.platform.base import World

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "deployments/chart/README.md",
    ROOT / "deployments/chart/REASONS.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(kaitoflow [a-z][^`]*)`")
# Written for a person: what may be left away, what is one of several.
_PROSE = re.compile(r"[\[\]|…]|\.\.\.")


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    for kind, text in _BLOCK.findall(page.read_text()):
        if kind in kinds:
            yield text


def commands() -> list[tuple[str, str]]:
    """Our commands, in blocks and in the text, each with its page."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        lines = [
            line.removeprefix("$ ").partition(" #")[0]
            for text in blocks(page, "", "sh")
            for line in text.splitlines()
        ]
        lines += _INLINE.findall(_BLOCK.sub("", page.read_text()))
        name = str(page.relative_to(ROOT))
        found += [(name, line) for line in lines if re.match("kaitoflow [a-z]", line)]
    return sorted({(page, line) for page, line in found if not _PROSE.search(line)})


def test_there_is_much_to_be_read() -> None:
    assert len(commands()) > 25


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_is_one_that_the_command_line_takes(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if len(words) == 1:  # the name of a command, which may want more
        assert words[0] in app
        return
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_can_be_read_by_a_shell(page: Path) -> None:
    for text in blocks(page, "sh"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def yaml_blocks() -> list[tuple[str, str]]:
    return [(page.name, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), yaml_blocks())
def test_yaml_is_readable_and_a_workspace_passes_the_plan(page: str, text: str) -> None:
    documents = [*yaml.safe_load_all(text)]
    if not any(each.get("kind") == "Workspace" for each in documents):
        return
    manifests = parse_manifests(text, source=page)
    is_cluster = bool(manifests.workspace.resource.label_selector.match_labels)
    world = World(
        node=Node(name="there", cores=4, memory_gib=28.0),
        config_maps=manifests.config_maps,
        has_secret=lambda _name: True,
        is_cluster=is_cluster,
        push=is_cluster,
    )
    assert make_plan(manifests.workspace, world, Findings(provisioner="byo")).refused == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        file, heading = link
        if file.startswith("http"):
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert heading in slugs, link
