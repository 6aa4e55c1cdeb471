"""A model's safetensors, tokenizer and configuration from the Hugging Face hub; nothing else of it.

Pickled weights and code in a model's repository are never fetched. HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE come from the environment.
"""

import hashlib
import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contract.errors import DiskFull, DownloadFailed, KaitoflowError, WeightsUnavailable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

log = logging.getLogger(__name__)

# An unreachable hub should cost seconds: it is asked before anything else is tried.
_ANSWER_WITHIN_S = 6.0
_FILES_AT_ONCE = 4
_COMMIT_FILE = ".commit"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")


class HubUnreachable(Exception):
    """No hub answers; the message says how that was seen."""


def download(model_id: str, revision: str, *, into: Path, commit: str = "") -> str:
    """Bring the model's files into a folder, going on from what a broken download left there.

    Returns: the commit that the files are of. A branch may move on between two starts: the second
    one goes on with the commit of the first.

    Args: commit: to fetch if the hub still has it, since earlier files are of it.
    Raises: HubUnreachable, WeightsUnavailable (gated, token refused, no such model or revision, no
    safetensors), DownloadFailed, DiskFull.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    endpoint = _endpoint()
    begun = into / _COMMIT_FILE
    commit = begun.read_text().strip() if begun.is_file() else commit
    info = _info_of(model_id, revision, commit=commit, endpoint=endpoint)
    _expect_commit(info, revision, endpoint=endpoint)
    if commit and info.sha != commit:
        _forget_files(into)
    begun.write_text(str(info.sha))
    wanted = _wanted(info, model_id=model_id, endpoint=endpoint)
    _check_space(sum(wanted.values()), into)

    def fetch(name: str) -> None:
        hf_hub_download(model_id, name, revision=info.sha, local_dir=into, endpoint=endpoint)

    try:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(fetch, wanted))
    except HfHubHTTPError as error:
        raise _refusal(error, model_id, revision=revision, endpoint=endpoint) from error
    except LocalEntryNotFoundError as error:
        raise DownloadFailed(
            f"the files of {model_id} were asked for",
            f"{endpoint} stopped answering ({error.__cause__ or error})",
            "start again: finished files are kept",
        ) from error
    _check_digests(info, into)
    shutil.rmtree(into / ".cache", ignore_errors=True)
    begun.unlink()
    return str(info.sha)


def _info_of(model_id: str, revision: str, *, commit: str, endpoint: str) -> "ModelInfo":
    """What the hub has of the commit; of the revision where it has not, or no longer."""
    if commit:
        with suppress(WeightsUnavailable):
            return _model_info(model_id, commit, endpoint=endpoint)
    return _model_info(model_id, revision, endpoint=endpoint)


def _expect_commit(info: "ModelInfo", revision: str, *, endpoint: str) -> None:
    """Nothing, unless a commit was asked for by its name and the hub has another one for it."""
    if _COMMIT.fullmatch(revision) and info.sha != revision:
        raise WeightsUnavailable(
            f"commit {revision} of {info.id} was asked for",
            f"{endpoint} gives {info.sha} for it",
            "let HF_ENDPOINT name a mirror that keeps commits",
        )


def _forget_files(folder: Path) -> None:
    """Leave nothing of another commit, whose files would be taken for finished ones."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _check_digests(info: "ModelInfo", folder: Path) -> None:
    """Compare the files with what the hub says of them; downloading has looked at sizes only."""
    for file in info.siblings or []:
        path = folder / file.rfilename
        if file.lfs is None or not path.is_file():
            continue
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.lfs.sha256:
            path.unlink()
            raise DownloadFailed(
                f"{file.rfilename} of {info.id} was fetched",
                f"its digest is {found:.12}... instead of {file.lfs.sha256:.12}...",
                "start again: other files are kept",
            )


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)


def _model_info(model_id: str, revision: str, *, endpoint: str) -> "ModelInfo":
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(endpoint=endpoint)
    try:
        return api.model_info(
            model_id, revision=revision, timeout=_ANSWER_WITHIN_S, files_metadata=True
        )
    except HFValidationError as error:
        raise WeightsUnavailable(
            f"model {model_id!r} was asked for",
            f"no model of {endpoint} can have that name ({error})",
            "write it as owner/name",
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise HubUnreachable(f"{endpoint} answers {error.response.status_code}") from error
        raise _refusal(error, model_id, revision=revision, endpoint=endpoint) from error
    except (HTTPError, OSError) as error:  # no route, no name, time-out, HF_HUB_OFFLINE
        first_line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise HubUnreachable(f"{endpoint} does not answer ({first_line})") from error


def _wanted(info: "ModelInfo", *, model_id: str, endpoint: str) -> dict[str, int]:
    """File names and sizes in bytes: weights once, in one format, and the texts beside them."""
    at_top = [file for file in info.siblings or [] if "/" not in file.rfilename]
    sizes = {file.rfilename: file.size or 0 for file in at_top}
    sharded = "model.safetensors.index.json" in sizes
    weights = [
        name
        for name in sizes
        if name.endswith(".safetensors") and name.startswith("model-" if sharded else "model.")
    ]
    if not weights:
        raise WeightsUnavailable(
            f"safetensors of {model_id} were asked for",
            f"{endpoint}/{model_id} has none in its top folder (it has: "
            f"{', '.join(sorted(sizes)[:8])})",
            "choose a model that comes as safetensors: pickled weights can run code and "
            "are not loaded",
        )
    texts = [name for name in sizes if name.endswith(_TEXT_SUFFIXES) or name.startswith("LICENSE")]
    return {name: sizes[name] for name in [*weights, *texts]}


def _check_space(needed_bytes: int, folder: Path) -> None:
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed_bytes - there > free:
        raise DiskFull(
            f"the weights need {needed_bytes / 1000000000.0:.1f} GB in {folder}",
            f"{free / 1000000000.0:.1f} GB are free",
            "free some disk or give a larger volume",
        )


def _refusal(
    error: "HfHubHTTPError", model_id: str, *, revision: str, endpoint: str
) -> KaitoflowError:
    """What the hub's 4xx means to the person who named the model."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    page = f"{endpoint}/{model_id}"
    has_token = bool(os.environ.get("HF_TOKEN"))
    if isinstance(error, RevisionNotFoundError | RemoteEntryNotFoundError):
        return WeightsUnavailable(
            f"revision {revision} of {model_id} was asked for",
            f"{page} has no such revision or file",
            f"name one that is listed there: preset.name: {model_id}@main",
        )
    if isinstance(error, GatedRepoError) and has_token:
        return WeightsUnavailable(
            f"{model_id} is gated",
            f"the account of the token in HF_TOKEN has not been let in ({status})",
            f"accept its licence at {page} with that account, then start again",
        )
    if isinstance(error, GatedRepoError):
        return WeightsUnavailable(
            f"{model_id} is gated",
            f"HF_TOKEN is not set ({status})",
            f"accept its licence at {page} and put a read token of that account into the "
            "secret as HF_TOKEN",
        )
    if status in (401, 403) and has_token and not isinstance(error, RepositoryNotFoundError):
        return WeightsUnavailable(
            f"{model_id} was asked for with the token in HF_TOKEN, {endpoint} refuses that "
            f"token ({status}: expired, mistyped or without read permission)",
            "put a valid read token into the secret as HF_TOKEN",
            f"the model's licence is at {page}",
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return WeightsUnavailable(
            f"{model_id} was asked for",
            f"{endpoint} has no such model that "
            f"{('the token in HF_TOKEN' if has_token else 'a visitor without HF_TOKEN')} "
            f"may see ({status})",
            f"check the spelling at {page}, and for a private model put a token of its "
            "owner into the secret as HF_TOKEN",
        )
    return DownloadFailed(
        f"the files of {model_id} were asked for",
        f"{endpoint} answers {status}",
        "try again later",
    )
