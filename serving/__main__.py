"""The inference server: `python -m serving CONFIG.json` (a `ServerConfig`).

The port is bound first, so that a taken one is told before the model is loaded and /health can be
followed from the start. SIGTERM lets answers under way end for `drain_s`, then cuts them, which is
told in each; exit code 143.
"""

import asyncio
import logging
import socket
import sys
import threading
from typing import Any

import uvicorn

from serving.api.answers import prove
from serving.app import create_app
from serving.departure import FAREWELL_S, WAITING_CONNECTIONS, DepartingServer
from serving.door.connections import ACCEPTED_AT_ONCE, bounded
from serving.engine import Engine
from serving.metrics import Metrics
from serving.model.cpus import share_cpus
from serving.server import Server
from tasks.contract.errors import InvalidWorkspace, PortInUse
from tasks.contract.podlog import Stopped, emit, run_program
from tasks.contract.programs.serving import ServerConfig, ServerResult

log = logging.getLogger(__name__)


def main(config: ServerConfig) -> ServerResult:
    """Serve until told to stop.

    Raises: PortInUse, WeightsUnavailable, AdapterMismatch, ServedDiffers, InvalidWorkspace.
    """
    if config.engine == "transformers":
        share_cpus()
    _check_names(config)
    with listen(config.host, config.port) as listener:
        try:
            asyncio.run(_serve(config, listener))
        except KeyboardInterrupt:
            raise Stopped from None
    return ServerResult()


def _check_names(config: ServerConfig) -> None:
    names = [config.served_model_name, *(source.name for source in config.adapters)]
    if len(set(names)) < len(names):
        raise InvalidWorkspace(
            f"the served models were named {', '.join(names)}",
            "two of them alike",
            "give each adapter a name of its own",
        )
    if config.default_model is not None and config.default_model not in names:
        raise InvalidWorkspace(
            f"default_model {config.default_model} was asked for",
            f"the served models are {', '.join(names)}",
            "name one of them",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises: PortInUse, naming who holds the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(WAITING_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"the server was asked to listen on {host}:{port}",
            f"{_holder(port) or error.strerror}",
            "stop that program or choose another port",
        ) from error
    return listener


def _holder(port: int) -> str | None:
    """Who listens on the port, as far as this user may see."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == "LISTEN":
                name = psutil.Process(connection.pid).name() if connection.pid else "a program"
                return f"{name} (process {connection.pid or 'unknown'}) listens there already"
    except psutil.Error:
        return None
    return None


async def _serve(config: ServerConfig, listener: socket.socket) -> None:
    """Answer requests at once, load the model beside, go when told or when loading fails."""
    shared = Server(config, Metrics())
    server = DepartingServer(
        uvicorn.Config(
            create_app(shared),
            http=bounded(write_s=config.write_s),
            backlog=ACCEPTED_AT_ONCE,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=FAREWELL_S,
            timeout_keep_alive=30,
        ),
        shared,
        drain_s=config.drain_s,
    )
    loading = asyncio.create_task(_load(shared, url=_url(config, listener)))

    def leave_on_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            server.should_exit = True

    loading.add_done_callback(leave_on_failure)
    try:
        await server.serve(sockets=[listener])
    finally:
        loading.cancel()
        if shared.engine is not None:
            shared.engine.close()
    if loading.done() and not loading.cancelled():
        loading.result()
    if shared.engine is not None and shared.engine.fault:
        raise shared.engine.fault


def _url(config: ServerConfig, listener: socket.socket) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{listener.getsockname()[1]}"


async def _load(shared: Server, *, url: str) -> None:
    from_thread: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    # A daemon, so that a stop during a long load does not wait for its end.
    threading.Thread(target=_load_in_thread, args=(shared, from_thread), daemon=True).start()
    engine = await from_thread
    await prove(engine, *engine.models)
    config = shared.config
    most = config.max_loaded_adapters
    shared.metrics.watch(engine, model=config.served_model_name, max_loaded_adapters=most)
    shared.engine = engine
    log.info("server ready url=%s models=%s", url, ",".join(engine.models))
    emit("progress", {"phase": "ready", "url": url})


def _load_in_thread(shared: Server, future: "asyncio.Future[Any]") -> None:
    loop = future.get_loop()
    try:
        engine = _load_engine(shared.config, shared.metrics)
    except Exception as error:  # noqa: BLE001 - raised again in the event loop
        _hand_over(loop, future.set_exception, error)
    else:
        _hand_over(loop, future.set_result, engine)


def _load_engine(config: ServerConfig, metrics: Metrics) -> Engine:
    """The engine that is asked for; the other one's libraries are not loaded."""
    if config.engine == "vllm":
        from serving.vllm_engine.engine import start_engine

        return start_engine(config, metrics=metrics)
    from serving.transformers_engine.engine import load_engine

    return load_engine(config, metrics=metrics)


def _hand_over(loop: asyncio.AbstractEventLoop, put: Any, outcome: Any) -> None:
    def unless_cancelled() -> None:
        if not put.__self__.done():
            put(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(unless_cancelled)


if __name__ == "__main__":
    sys.exit(run_program(ServerConfig, main, sys.argv))
