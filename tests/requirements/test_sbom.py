"""The SBOM of an image names what its lock brings into it, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from requirements import sbom

ROOT = Path(__file__).parents[2]
A, B = "a" * 64, "b" * 64
NUMBER = r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LOCK = f"""# Written by hand
plain==1.0 \\
    --hash=sha256:{B} \\
    --hash=sha256:{A}
some-where==2.1 ; sys_platform == 'win32' \\
    --hash=sha256:{A}
new_enough==3.0rc1 ; python_full_version >= '3.12' \\
    --hash=sha256:{A}
too-old==4 ; python_full_version < '3.12' \\
    --hash=sha256:{A}
of-arm==5 ; platform_machine == 'aarch64' \\
    --hash=sha256:{A}
"""


def bill(*, base: str = "ARG BASE=host/python:3.12-slim\n", **changes: str) -> Any:
    told = {"containerfile": base, "version": "0.1.0", "machine": "x86_64"} | changes
    return sbom.bill("control", lock=LOCK, **told)


def test_what_the_lock_brings_into_the_image_is_listed_after_its_base() -> None:
    components = bill()["components"]
    assert [(each["name"], each["version"]) for each in components] == [
        ("host/python", "3.12-slim"),
        ("plain", "1.0"),
        ("new_enough", "3.0rc1"),
    ]
    assert components[1] == {
        "bom-ref": "pkg:pypi/plain@1.0",
        "type": "library",
        "name": "plain",
        "version": "1.0",
        "purl": "pkg:pypi/plain@1.0",
        "externalReferences": [
            {
                "type": "distribution",
                "url": "pkg:pypi/plain@1.0",
                "hashes": [
                    {"alg": "SHA-256", "content": A},
                    {"alg": "SHA-256", "content": B},
                ],
            }
        ],
    }


def test_an_image_of_another_processor_lists_its_own() -> None:
    names = [each["name"] for each in bill(machine="aarch64")["components"]]
    assert names == ["host/python", "plain", "new_enough", "of-arm"]


def test_the_same_image_has_the_same_bill_and_another_one_another_number() -> None:
    assert bill() == bill()
    assert bill()["serialNumber"] != bill(version="0.2.0")["serialNumber"]


def test_an_image_without_a_base_is_refused() -> None:
    with pytest.raises(SystemExit, match="has no ARG BASE=NAME:PYTHON; write one"):
        bill(base="FROM scratch\n")


def test_the_images_are_written_in_the_form_that_cyclonedx_prescribes(tmp_path: Path) -> None:
    sbom.main([str(tmp_path)])
    for image, _, lock in sbom.IMAGES:
        made = json.loads((tmp_path / f"sbom-{image}.cdx.json").read_text())
        assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
        assert re.fullmatch(NUMBER, made["serialNumber"])
        assert made["metadata"]["component"]["name"] == f"kaitoflow/{image}"
        references = [each["bom-ref"] for each in made["components"]]
        assert len(references) == len(set(references))
        _, *packages = made["components"]
        text = (ROOT / "requirements" / lock).read_text()
        assert all(f"{each['name']}=={each['version']} " in text for each in packages)
        assert len(packages) > 0.9 * len(re.findall(r"^[\w.-]+==", text, re.MULTILINE))
        hashes = [h for each in packages for h in each["externalReferences"][0]["hashes"]]
        assert all(re.fullmatch("[0-9a-f]{64}", each["content"]) for each in hashes)
