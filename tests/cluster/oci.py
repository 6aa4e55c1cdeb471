"""Images put together from tar files and pushed to a registry on loopback, as they are.

Layers stay uncompressed: they travel over loopback only, and PyTorch alone is gigabytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
Object = dict[str, Any]


class Images:
    """The images of the registry at `host`; a name is REPOSITORY:TAG."""

    def __init__(self, host: str) -> None:
        self._client = httpx2.Client(
            base_url=f"http://{host}/v2/", trust_env=False, timeout=600.0, follow_redirects=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._client.close()

    def __contains__(self, name: str) -> bool:
        repository, tag = name.split(":")
        url = f"{repository}/manifests/{tag}"
        return self._client.head(url, headers={"Accept": _MANIFEST_TYPE}).is_success

    def push(
        self,
        name: str,
        layers: Sequence[Path],
        *,
        settings: Mapping[str, Any],
        base: str | None = None,
    ) -> None:
        """Let `name` be `base` with these tar files on top; settings: Env, User, Cmd and such."""
        repository, tag = name.split(":")
        config: Object = {"architecture": "amd64", "os": "linux", "config": {}}
        below: list[Object] = []
        if base is not None:
            below, config = self._read(base)
            for layer in below:
                self._mount(repository, layer["digest"], base.split(":")[0])
        added = [self._layer(repository, layer) for layer in layers]
        diffs = config.get("rootfs", {}).get("diff_ids", []) + [each["digest"] for each in added]
        config |= {
            "config": {**config["config"], **settings},
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": [{"created_by": "kaitoflow's tests"} for _ in diffs],  # buildah counts
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": self._blob(repository, _CONFIG_TYPE, json.dumps(config).encode()),
            "layers": below + added,
        }
        self._client.put(
            f"{repository}/manifests/{tag}",
            content=json.dumps(manifest).encode(),
            headers={"Content-Type": _MANIFEST_TYPE},
        ).raise_for_status()

    def _read(self, name: str) -> tuple[list[Object], Object]:
        repository, tag = name.split(":")
        manifest = self._client.get(
            f"{repository}/manifests/{tag}", headers={"Accept": _MANIFEST_TYPE}
        ).raise_for_status()
        digest = manifest.json()["config"]["digest"]
        config = self._client.get(f"{repository}/blobs/{digest}").raise_for_status()
        return manifest.json()["layers"], config.json()

    def _mount(self, repository: str, digest: str, source: str) -> None:
        if repository != source:
            answer = self._client.post(
                f"{repository}/blobs/uploads/", params={"mount": digest, "from": source}
            )
            assert answer.status_code == 201, answer.text

    def _layer(self, repository: str, path: Path) -> Object:
        with path.open("rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
            content.seek(0)
            self._upload(repository, digest, content)
        return {"mediaType": _LAYER_TYPE, "digest": digest, "size": path.stat().st_size}

    def _blob(self, repository: str, media_type: str, content: bytes) -> Object:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._upload(repository, digest, content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _upload(self, repository: str, digest: str, content: Any) -> None:
        if self._client.head(f"{repository}/blobs/{digest}").is_success:
            return
        place = self._client.post(f"{repository}/blobs/uploads/").raise_for_status()
        self._client.put(
            httpx2.URL(place.headers["location"]).copy_merge_params({"digest": digest}),
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        ).raise_for_status()
