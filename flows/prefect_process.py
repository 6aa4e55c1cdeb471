"""Prefect's command line in a process set up as ours are: `python -m flows.prefect_process`.

For `server start`, which lives long and may answer to some host names only; everything else it does
as `prefect` does.
"""

import os
from typing import TYPE_CHECKING, Any

from flows.heap import collect_aside, settle_heap

if TYPE_CHECKING:
    from fastapi import FastAPI

HOSTS_VARIABLE = "KAITOFLOW_PREFECT_HOSTS"
# Of Prefect's client within its server; no DNS leads there, as it has no dot.
_OF_ITSELF = "prefect-in-memory"


def answer_only_to(hosts: list[str]) -> None:
    """Have the server refuse requests for other hosts: names that a page had made to lead here.

    Prefect has no setting for it, so the function that makes its application is wrapped. It is
    called again for each automation's action, gives the same application, and that one then asks
    itself by a name that is no host's.
    """
    from prefect.server.api import server
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    make_app = server.create_app

    def create_app(*arguments: Any, **options: Any) -> "FastAPI":
        made = make_app(*arguments, **options)
        kinds: list[object] = [each.cls for each in made.user_middleware]
        if TrustedHostMiddleware not in kinds:
            own = [*hosts, _OF_ITSELF]
            made.add_middleware(TrustedHostMiddleware, allowed_hosts=own)
        return made

    server.create_app = create_app


if __name__ == "__main__":
    from prefect.cli import app
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    if own_hosts := os.environ.get(HOSTS_VARIABLE):
        answer_only_to(own_hosts.split(","))
    settle_heap()
    if PREFECT_API_DATABASE_CONNECTION_URL.value().startswith("sqlite"):
        collect_aside()
    app()
