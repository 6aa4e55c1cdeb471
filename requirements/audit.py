"""Asks OSV which locked packages have known vulnerabilities. Run as `make audit`.

All packages are asked about in one request, by name and version. Exit codes: 0 none is known, 1
some are, 69 (EX_UNAVAILABLE) nobody answers, which says nothing about the packages. OSV_URL names a
mirror of https://api.osv.dev.
"""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent / "all.txt"
URL = "https://api.osv.dev"
_PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
_TIMEOUT_S = 60
_FOUND, _UNAVAILABLE = 1, 69


def audit(lock: str, url: str) -> dict[str, list[str]]:
    """The advisories of each package that has some, by `name version`.

    Raises: OSError, ValueError: there was no answer, or it was none of OSV's.
    """
    pins = _PIN.findall(lock)
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}
        for name, version in pins
    ]
    found = _answer(f"{url}/v1/querybatch", {"queries": queries})["results"]
    return {
        f"{name} {version}": sorted(each["id"] for each in said["vulns"])
        for (name, version), said in zip(pins, found, strict=True)
        if said.get("vulns")
    }


def _answer(url: str, body: Any) -> Any:
    request = urllib.request.Request(  # noqa: S310  the address is this file's, or a person's own
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)


def main() -> int:
    """Tell what is known, or that nobody answers."""
    url = os.environ.get("OSV_URL", URL).rstrip("/")
    try:
        found = audit(LOCK.read_text(), url)
    except (OSError, ValueError, LookupError) as error:
        sys.stderr.write(
            "advisories on the locked packages were asked for; no advisory source answers at "
            f"{url} ({type(error).__name__}: {error}); run `make audit` where it can be reached, "
            "or set OSV_URL to a mirror\n"
        )
        return _UNAVAILABLE
    for package, advisories in found.items():
        sys.stdout.write(f"{package}: {', '.join(advisories)} (see {URL}/v1/vulns/ID)\n")
    sys.stdout.write(
        f"{len(found)} of the locked packages have known vulnerabilities"
        + ("; raise their floors in requirements/floors.txt, then make lock\n" if found else "\n")
    )
    return _FOUND if found else 0


if __name__ == "__main__":
    sys.exit(main())
