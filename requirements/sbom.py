"""Writes what is in each image: sbom-control.cdx.json, -pods and -vllm, CycloneDX 1.6.

From the hashed locks, which are all that an image takes beside its base: what of them is for other
systems or Pythons is left out. The base image is named and not opened; its packages are in the
SBOM of whoever publishes it. The same locks give the same bytes. Run as `make sbom`, or
`python requirements/sbom.py FOLDER [MACHINE]` for images of another processor than x86_64.
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
# An image, the folder of its description, its lock.
IMAGES = (
    ("control", "control", "control.txt"),
    ("pods", "pod", "pods.txt"),
    ("vllm", "vllm", "vllm.txt"),
)
_BASE = re.compile(r"^ARG BASE=(\S+?):(\S+)$", re.MULTILINE)
_PYTHON = re.compile(r"^(\d+\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Locked:
    """A package as a lock has it; sha256: of each of its files."""

    name: str
    version: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The package's name in every tool that reads SBOMs."""
        return f"pkg:pypi/{self.name}@{self.version}"


def locked_packages(text: str, *, python: str, machine: str) -> Iterator[Locked]:
    """The packages of a lock that a Linux image with this Python takes."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        pin, *hashes = re.split(r"\s*\\?\s+--hash=sha256:", entry.strip())
        requirement = Requirement(pin)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            [specifier] = requirement.specifier
            yield Locked(
                name=requirement.name, version=specifier.version, sha256=tuple(sorted(hashes))
            )


def bill(image: str, *, lock: str, containerfile: str, version: str, machine: str) -> Any:
    """The SBOM of an image, in CycloneDX's JSON."""
    base = _BASE.search(containerfile)
    python = base and _PYTHON.match(base[2])
    if not (base and python):
        raise SystemExit(
            f"the SBOM of {image} was to name its base image; its Containerfile has no "
            "ARG BASE=NAME:PYTHON; write one"
        )
    packages = [*locked_packages(lock, python=python[1], machine=machine)]
    told = f"{image} {version} {machine} {base[0]} {lock}"
    name = f"kaitoflow/{image}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, told).urn,
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": name,
                "type": "container",
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": "kaitoflow:machine", "value": machine}],
        },
        "components": [
            {"bom-ref": base[1], "type": "container", "name": base[1], "version": base[2]},
            *map(_component, packages),
        ],
    }


def _component(package: Locked) -> dict[str, Any]:
    files = [{"alg": "SHA-256", "content": digest} for digest in package.sha256]
    return {
        "bom-ref": package.purl,
        "type": "library",
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        # Of the files that a registry has of this version; an image was made from one of them.
        "externalReferences": [{"type": "distribution", "url": package.purl, "hashes": files}],
    }


def main(arguments: list[str]) -> None:
    """Write both SBOMs into the folder that is named."""
    folder, machine = Path(arguments[0]), (arguments[1:] or ["x86_64"])[0]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    folder.mkdir(parents=True, exist_ok=True)
    for image, description, lock in IMAGES:
        made = bill(
            image,
            lock=(LOCKS / lock).read_text(),
            containerfile=(ROOT / f"deployments/images/{description}/Containerfile").read_text(),
            version=version,
            machine=machine,
        )
        target = folder / f"sbom-{image}.cdx.json"
        target.write_text(json.dumps(made, indent=1) + "\n")
        sys.stdout.write(f"{target}: {len(made['components'])} components\n")


if __name__ == "__main__":
    main(sys.argv[1:])
