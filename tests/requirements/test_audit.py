"""Known vulnerabilities of locked packages are told, and silence is not taken for none."""

import json

import pytest

from requirements import audit
from tests.dataset.web import Handler, running_web

LOCK = """old==1.0 ; python_version < '4' \\
    --hash=sha256:00
fine==2.0 \\
    --hash=sha256:00
"""


def test_each_package_is_asked_about_by_name_and_version() -> None:
    asked = []

    def answer(handler: Handler) -> None:
        asked.append(json.loads(handler.body()))
        found = {"results": [{"vulns": [{"id": "PYSEC-2"}, {"id": "GHSA-1"}]}, {}]}
        handler.answer(200, json.dumps(found).encode())

    with running_web() as web:
        web.serve("/v1/querybatch", answer)
        assert audit.audit(LOCK, web.address) == {"old 1.0": ["GHSA-1", "PYSEC-2"]}
    assert asked[0]["queries"] == [
        {"package": {"name": "old", "ecosystem": "PyPI"}, "version": "1.0"},
        {"package": {"name": "fine", "ecosystem": "PyPI"}, "version": "2.0"},
    ]


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        ({}, 0, "0 of the locked packages have known vulnerabilities\n"),
        ({"vulns": [{"id": "GHSA-1"}]}, 1, "raise their floors in requirements/floors.txt"),
    ],
)
def test_the_exit_code_says_whether_something_is_known(
    found: object,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pins = len(audit._PIN.findall(audit.LOCK.read_text()))
    said = json.dumps({"results": [found, *[{}] * (pins - 1)]}).encode()
    with running_web() as web:
        web.serve_bytes("/v1/querybatch", said)
        monkeypatch.setenv("OSV_URL", f"{web.address}/")
        assert audit.main() == code
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("said", [b"<html>", b'{"results": []}', b"{}"])
def test_an_answer_of_somebody_else_and_none_at_all_are_told_as_no_answer(
    said: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_web() as web:
        web.serve_bytes("/v1/querybatch", said)
        monkeypatch.setenv("OSV_URL", web.address)
        assert audit.main() == 69
    assert "no advisory source answers at" in capsys.readouterr().err
    assert audit.main() == 69
