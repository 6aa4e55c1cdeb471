"""A person who has never seen a Workspace tunes, serves and approves from Prefect's pages alone.

With SCREENSHOTS=FOLDER pictures of what was seen stay there.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from demo.docstrings import write_docstring_dataset
from tasks.contract.adapter_history import Fate
from tasks.platform.store import Store
from tests.browser import Page, open_page
from tests.builders import tuning_manifest
from tests.flows.conftest import Installation
from tests.flows.prefect import ask
from tests.flows.retuned import waits_for_a_word

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WAIT_S = 400
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_RUN = "document.querySelector('a[href*=\"/runs/flow-run/\"]')?.href"

_HAS_DIALOG = "!!document.querySelector('[role=dialog]')"
_ARTIFACT = "document.querySelector('a[href*=\"/artifacts/artifact/\"]')?.href"


@dataclass
class Desk:
    """A person who has logged in, and where `kaitoflow server` says that a run is started."""

    page: Page
    form_url: str

    def open_form(self) -> Page:
        self.page.open(self.form_url)
        self.page.wait_for_text("Or a whole Workspace")
        return self.page

    def send(self) -> str:
        """Send the form; the address of the page of the run that it starts."""
        self.page.press("Submit")
        return str(self.page.wait_for(_RUN, "the run"))

    def wait_for_end(self, run_url: str, api_url: str) -> str:
        """How the run has ended, by the word on its page, which is read when it has."""
        self.page.open("about:blank")  # a page that draws what is under way takes half a core
        route = f"{api_url}/flow_runs/{run_url.rpartition('/')[2]}"
        deadline = time.monotonic() + WAIT_S
        while (state := ask("GET", route).json()["state"])["type"] not in ENDED:
            assert time.monotonic() < deadline, state
            time.sleep(2)
        self.page.open(run_url)
        self.page.wait_for_text(state["name"])
        return str(state["name"])

    def show(self, name: str, *, height: int = 900) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.screenshot(Path(folder) / f"{name}.png", height=height)


def api(installation: Installation) -> str:
    return installation.environment["PREFECT_API_URL"]


@pytest.fixture
def desk(installation: Installation, tmp_path: Path) -> Iterator[Desk]:
    server = installation.start("server")
    log = installation.home / "started.log"
    deadline = time.monotonic() + WAIT_S
    while not (named := re.search(r"Start a run +(\S+)", log.read_text())):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    with open_page(tmp_path) as page:
        page.open(named[1])
        page.fill("admin:pass", os.environ["PREFECT_API_AUTH_STRING"])
        page.press("Login")
        page.wait_for_text("Deployments")
        yield Desk(page, named[1])
    server.send_signal(signal.SIGINT)
    assert server.wait(60) in (0, 130)


def test_the_form_alone_leads_to_a_model_that_answers(
    desk: Desk, installation: Installation, tmp_path: Path
) -> None:
    write_docstring_dataset(tmp_path / "rows.parquet", rows=40, seed=0)
    form = desk.open_form()
    desk.show("form", height=2060)
    form.fill("Name", "My Model")
    form.press("Submit")
    form.wait_for_text("'dataset' is a required property")
    form.wait_for_text("'My Model' does not match")
    form = desk.open_form()
    form.fill("Name", "from-form")
    form.fill("Dataset", (tmp_path / "rows.parquet").as_uri())
    form.choose("Method", "lora")
    form.fill("Epochs", "2")
    assert desk.wait_for_end(desk.send(), api(installation)) == "Completed"
    desk.show("run")
    made = installation.object("from-form")
    assert made["status"]["state"] == "Ready"
    assert made["tuning"]["method"] == "lora"
    assert made["tuning"]["config"] == "from-form-training"
    answer = installation.kaitoflow("chat", "from-form", "What does len do?")
    assert answer.returncode == 0, answer.stderr
    form.press("Artifacts")
    form.follow("MARKDOWN\n\nreport")
    form.open(form.wait_for(_ARTIFACT, "the report"))
    form.wait_for_text("Run of default/from-form")
    desk.show("report", height=1300)


def test_a_pasted_workspace_takes_the_place_of_the_fields_and_its_refusal_is_read(
    desk: Desk, installation: Installation
) -> None:
    manifest = tuning_manifest("pasted", input={"urls": ["file:///no/such/rows.jsonl"]})
    desk.open_form().fill("Or a whole Workspace", yaml.safe_dump(manifest))
    assert desk.wait_for_end(desk.send(), api(installation)) == "Failed"
    desk.page.wait_for_text("there is no such file")
    accepted = installation.object("pasted")["status"]["conditions"][0]
    assert (accepted["type"], accepted["reason"]) == ("Accepted", "DatasetUnreachable")


def confirm(page: Page) -> None:
    """Press Resume until the dialog has closed: while it checks its fields it takes no press."""
    deadline, pressed_s = time.monotonic() + WAIT_S, 0.0
    while page.evaluate(_HAS_DIALOG):
        assert time.monotonic() < deadline, "the dialog did not close"
        if time.monotonic() - pressed_s > 20:
            page.press("Resume")
            pressed_s = time.monotonic()
        time.sleep(0.5)


def test_an_adapter_that_waits_is_looked_at_and_approved_on_the_page_of_one_run(
    desk: Desk, installation: Installation
) -> None:
    store, answer_by = Store(installation.home), datetime.now(UTC) + timedelta(days=7)
    workspace = waits_for_a_word(store, "approved", answer_by=answer_by)
    asked = {"flow_runs": {"name": {"any_": [f"approve {workspace}@2"]}}}
    deadline = time.monotonic() + WAIT_S
    while not (
        runs := [
            run
            for run in ask("POST", f"{api(installation)}/flow_runs/filter", json=asked).json()
            if run["state_name"] == "Suspended"
        ]
    ):
        assert time.monotonic() < deadline, "nobody was asked"
        time.sleep(0.5)
    page = desk.page
    run_url = desk.form_url.partition("/deployments/")[0] + f"/runs/flow-run/{runs[0]['id']}"
    page.open(run_url)
    page.press("Artifacts")
    page.follow("MARKDOWN\n\ncomparison")
    page.open(page.wait_for(_ARTIFACT, "the comparison"))
    page.wait_for_text("Is approved@2 to serve?")
    page.wait_for_text("Returns the number of items")
    desk.show("comparison", height=1400)
    page.open(run_url)
    page.choose_from_menu("Resume")
    page.wait_for_text("Is approved@2 to serve?")
    page.choose("Approve", "yes")
    page.fill("Note", "it answers in whole sentences")
    desk.show("approval")
    confirm(page)
    assert desk.wait_for_end(run_url, api(installation)) == "Decided"
    told = store.read_status(workspace).adapters.find(2)
    assert (told.fate, told.why) == (Fate.SERVING, "it answers in whole sentences")
