"""A worker to which the Service of every Workspace leads to one server of this machine.

It stands for the cluster's names and its network, which no test has. Run as:
SERVER_URL=http://127.0.0.1:PORT python -m tests.flows.watcher.worker_beside_a_server worker ...
"""

import os
import sys

from flows.__main__ import main
from tasks.contract.workspace import Workspace
from tasks.platform import kubernetes


def service_url(workspace: Workspace) -> str:
    """Where the server is."""
    return os.environ["SERVER_URL"]


if __name__ == "__main__":
    vars(kubernetes)["service_url"] = service_url
    sys.exit(main())
