"""CoreDNS for the pods of the tests' cluster: names of Services, of its machine, and no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.build import tool
from tests.cluster.enclosure import Site
from tests.cluster.node_config import DNS_DOMAIN
from tests.cluster.program import Program

MACHINE = "machine.test"
"""The name of the machine on whose loopback the tests serve things; see `Cluster.expose`."""

_START_LIMIT_S = 60.0


@contextmanager
def running_dns(folder: Path, site: Site, *, kubeconfig: Path) -> Iterator[None]:
    """A name server at the site's address, which knows what the API server knows."""
    corefile = folder / "Corefile"
    corefile.write_text(
        f".:53 {{\n bind {site.address}\n errors\n"
        f" hosts {{\n  {site.address} {MACHINE}\n  fallthrough\n }}\n"
        f" kubernetes {DNS_DOMAIN} {{\n  kubeconfig {kubeconfig}\n }}\n}}\n"
    )
    command = site.command(tool("coredns"), "-conf", corefile)
    program = Program("coredns", command, folder / "coredns.log")
    program.start()
    try:
        program.wait_until(lambda: "CoreDNS-" in program.log.read_text(), limit_s=_START_LIMIT_S)
        yield
    finally:
        program.stop()
