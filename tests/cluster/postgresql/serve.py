"""Makes a database the first time, as the environment says, and becomes its server."""

import os
import subprocess
import tempfile
from pathlib import Path


def _make(data: Path, *, user: str, password: str, database: str) -> None:
    with tempfile.NamedTemporaryFile("w") as secret:
        secret.write(password)
        secret.flush()
        login = (f"--username={user}", f"--pwfile={secret.name}", "--auth=scram-sha-256")
        subprocess.run(["initdb", f"--pgdata={data}", "--encoding=UTF8", *login], check=True)
    alone = ["postgres", "--single", "-D", str(data), "postgres"]
    subprocess.run(alone, input=f"CREATE DATABASE {database}\n", text=True, check=True)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")


def main() -> None:
    """Run as the container's only program."""
    data = Path(os.environ["PGDATA"])
    if not (data / "PG_VERSION").exists():
        _make(
            data,
            user=os.environ["POSTGRES_USER"],
            password=os.environ["POSTGRES_PASSWORD"],
            database=os.environ["POSTGRES_DB"],
        )
    os.execvp("postgres", ["postgres", "-D", str(data), "-c", "listen_addresses=*"])


if __name__ == "__main__":
    main()
