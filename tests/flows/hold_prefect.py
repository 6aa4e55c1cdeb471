"""Hold a Prefect server until standard input ends; prints its API address."""

import sys

from flows.prefect_server import prefect_server

if __name__ == "__main__":
    with prefect_server() as server:
        sys.stdout.write(server.api_url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
