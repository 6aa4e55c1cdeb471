"""Run as `python -m tasks.dataset.pod.look CONFIG.json`: what servers say of files (LookConfig).

Nothing of the files themselves is read: the plan asks this before anything is spent.
"""

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tasks.contract.podlog import run_program
from tasks.contract.programs.dataset import LookConfig
from tasks.dataset.pod.fetch import probe, shown

_AT_ONCE = 8
_WEB_PAGE = "text/html"


def look(config: LookConfig) -> Mapping[str, Any]:
    """Keys: bytes (of each file, in order; None = its server does not say), web_pages (addresses).

    Raises: DatasetUnreachable, AddressForbidden, DownloadFailed: of the first file that has one.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        allow = config.allow_local_addresses
        found = list(pool.map(lambda url: probe(url, allow_local_addresses=allow), config.urls))
    return {
        "bytes": [each.bytes for each in found],
        "web_pages": [
            shown(url)
            for url, each in zip(config.urls, found, strict=True)
            if (each.content_type or "").startswith(_WEB_PAGE)
        ],
    }


if __name__ == "__main__":
    sys.exit(run_program(LookConfig, look, sys.argv))
