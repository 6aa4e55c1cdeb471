"""A KAITOFLOW_HOME of its own for a benchmark, and the command line in it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.contract.status import WorkspaceStatus
from tasks.presets import find_preset

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deployments/examples/quickstart.yaml"


class LocalHome:
    """The demo's Workspace, under a name and on data of its own."""

    def __init__(self, folder: Path, name: str, data: Path, weights: Path | None) -> None:
        """Make it. Args: weights: a model's folder; None = they are fetched."""
        self.folder, self.name, self.data = folder, name, data
        self.file = folder / f"{name}.yaml"
        workspace = yaml.safe_load(EXAMPLE.read_text("utf-8"))
        workspace["metadata"]["name"] = name
        workspace["tuning"]["input"]["urls"] = [data.as_uri()]
        self._write(workspace)
        if weights:
            preset = find_preset(workspace["tuning"]["preset"]["name"])
            link = folder / "models" / f"{preset.model.replace('/', '--')}@{preset.revision}"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(weights.resolve())

    def annotate(self, annotations: Mapping[str, str]) -> None:
        """Give the Workspace's file these annotations, and no others."""
        workspace = yaml.safe_load(self.file.read_text("utf-8"))
        workspace["metadata"]["annotations"] = dict(annotations)
        self._write(workspace)

    def _write(self, workspace: Mapping[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump(workspace), encoding="utf-8")

    def kaitoflow(self, *arguments: str) -> str:
        """What a command prints; the benchmark ends with one that fails."""
        command = [sys.executable, "-m", "flows", *arguments]
        given = {"KAITOFLOW_HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | given
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT
        )
        if ended.returncode:
            sys.exit(f"{' '.join(arguments)} ended with {ended.returncode}\n{ended.stderr}")
        return ended.stdout

    @property
    def status(self) -> WorkspaceStatus:
        """The Workspace's status, as far as one was written."""
        shown = json.loads(self.kaitoflow("get", self.name, "-o", "json"))
        return WorkspaceStatus.model_validate(shown["status"])
