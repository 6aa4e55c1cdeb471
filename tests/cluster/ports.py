"""Free ports on loopback for the servers that tests start."""

import random
import socket

# Below those that outgoing connections take: a server that is started again gets its port back.
_PORTS = range(20_000, 32_000)
# Of its own: pytest-randomly seeds `random` alike in all processes that run tests side by side,
# which then would start their servers on the same ports.
_RANDOM = random.SystemRandom()


def free_port() -> int:
    """A loopback TCP port that nothing listens on."""
    for port in _RANDOM.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"a free port of {_PORTS} was asked for; 100 tries met a taken one each")
