"""Carries connections from a port on one network to a port on another.

A socket belongs to the network on which it was made: the listener is made on the one, every
connection on the other. A network is named by the pid of a process on it.

Run as `python forward.py LISTEN_PID LISTEN_HOST:PORT CONNECT_PID CONNECT_HOST:PORT`.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from functools import partial

_CLONE_NEWNET = 0x40000000


def _enter_network(pid: str) -> None:
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")
    os.close(network)


async def _carry(
    target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with contextlib.closing(writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            return
        with contextlib.closing(far_writer):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while some := await source.read(1 << 18):
            sink.write(some)
            await sink.drain()
        sink.write_eof()


async def _serve(listener: socket.socket, target: tuple[str, int]) -> None:
    server = await asyncio.start_server(partial(_carry, target), sock=listener)
    await server.serve_forever()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(listen_pid: str, listen: str, connect_pid: str, connect: str) -> None:
    """Serve until killed."""
    _enter_network(listen_pid)
    listener = socket.create_server(_address(listen), backlog=256)
    _enter_network(connect_pid)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    asyncio.run(_serve(listener, _address(connect)))


if __name__ == "__main__":
    main(*sys.argv[1:])
