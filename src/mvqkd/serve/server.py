"""Run the application under uvicorn: bind, announce, follow signals, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping

import uvicorn

from mvqkd.errors import ConfigError
from mvqkd.serve.app import build_app
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.models import ModelSlot, ModelSource
from mvqkd.serve.protocol import MAX_MESSAGE_BYTES, ModelName
from mvqkd.serve.reload import Reloader
from mvqkd.serve.service import Service
from mvqkd.serve.settings import ServeSettings

_log = logging.getLogger(__name__)

# What the kernel may hold of a client that sends faster than it is decoded; without a bound it grows to megabytes, in
# which minutes of audio and the answer to a ping would be stuck.
_RECEIVE_BUFFER_BYTES = 256 * 1024
# Connections beside the streams: uploads, health checks, metrics, browsers that keep some open.
_OTHER_CONNECTIONS = 200
_BACKLOG = 1024


def serve(
    settings: ServeSettings, locations: Mapping[ModelName, ModelSource], announce: Callable[[str], None] = print
) -> int:
    """Load the models, listen, and serve until SIGTERM or SIGINT.

    Args:
        locations: source of each model by name.
        announce: told the address as soon as the server listens.
    Returns:
        0 after a clean end.
    Raises:
        ConfigError: the address cannot be bound.
        ArtifactError, RegistryError: a bundle cannot be used.
    """
    metrics = Metrics()
    slots = {name: ModelSlot(source, metrics) for name, source in locations.items()}
    with _bound(settings) as listening:
        asyncio.run(_run(settings, slots, metrics, listening, announce))
    return 0


async def _run(
    settings: ServeSettings,
    slots: Mapping[ModelName, ModelSlot],
    metrics: Metrics,
    listening: socket.socket,
    announce: Callable[[str], None],
) -> None:
    loop = asyncio.get_running_loop()
    service = Service(settings, slots, metrics)
    service.worker.start(loop)
    reloader = Reloader(slots.values(), metrics, settings.reload_s)
    server = _Server(
        uvicorn.Config(
            build_app(service),
            http="h11",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            # A client may lag behind by the audio in its queue before its answer to a ping is read.
            ws_ping_timeout=2 * settings.max_queue_s,
            # Audio hardly compresses, and a small compressed message may unpack to a large one.
            ws_per_message_deflate=False,
            backlog=_BACKLOG,
            limit_concurrency=settings.max_streams + _OTHER_CONNECTIONS,
            timeout_graceful_shutdown=2,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
        )
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_without_traceback)

    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloader.ask)
    announce(_url(settings, listening))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    reloading = asyncio.create_task(reloader.run())
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await service.drain()
        server.should_exit = True
        await serving
    finally:
        for task in (reloading, waiting):
            task.cancel()
        service.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``_run``: uvicorn's own handling would close the streams before their last result."""
        yield


def _without_traceback(record: logging.LogRecord) -> bool:
    """One line for text that is not UTF-8: a client must not fill the log with tracebacks."""
    if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
        record.exc_info = None
    return True


def _bound(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Without the protocol's number asyncio leaves Nagle's algorithm on, and every second message waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        listening.bind((settings.host, settings.port))
        # From here on connections wait in the queue rather than being refused: the address may be announced.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"address {settings.host} port {settings.port}",
            expected="one that this machine has and nobody listens on",
            got=error.strerror or str(error),
            next_step="pass another --port (0: any free one) or --host",
        ) from error
    return listening


def _url(settings: ServeSettings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listening.getsockname()[1]}"
