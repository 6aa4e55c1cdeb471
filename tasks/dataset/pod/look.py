"""Run as `python -m tasks.dataset.pod.look CONFIG.json`: what servers say of files (LookConfig).

Nothing of the files themselves is read: the plan asks this before anything is spent.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from tasks.contract.podlog import run_program
from tasks.contract.programs.dataset import LookConfig, LookResult
from tasks.remote.file_server import probe, shown

_AT_ONCE = 8
_WEB_PAGE = "text/html"


def look(config: LookConfig) -> LookResult:
    """What the servers of all files say, asked at once.

    Raises: DatasetUnreachable, AddressForbidden, DownloadFailed: of the first file that has one.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        allow = config.allow_local_addresses
        found = list(pool.map(lambda url: probe(url, allow_local_addresses=allow), config.urls))
    return LookResult(
        bytes=tuple(each.bytes for each in found),
        web_pages=tuple(
            shown(url)
            for url, each in zip(config.urls, found, strict=True)
            if (each.content_type or "").startswith(_WEB_PAGE)
        ),
    )


if __name__ == "__main__":
    sys.exit(run_program(LookConfig, look, sys.argv))
