"""mvqkd serve: recognise speech for clients over WebSocket and HTTP. Loads no torch."""

from __future__ import annotations

import argparse
import logging

from mvqkd.serve.settings import ServeSettings

_log = logging.getLogger(__name__)
_DEFAULTS = ServeSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to serve, where, and the limits."""
    parser.add_argument(
        "--bundle",
        required=True,
        metavar="DIR|models:/NAME@ALIAS",
        help="champion: a directory of export-onnx or a registered version; an alias is followed when it moves",
    )
    parser.add_argument("--challenger", metavar="DIR|models:/NAME@ALIAS", help="a second bundle to compare with")
    parser.add_argument("--host", default=_DEFAULTS.host, help=f"address to listen on ({_DEFAULTS.host})")
    parser.add_argument("--port", type=_port, default=_DEFAULTS.port, help=f"0: any free ({_DEFAULTS.port})")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="web origin whose pages may use the server"
    )
    parser.add_argument("--int8", action="store_true", help="use the quantised graphs")
    for name, convert, text in (
        ("num_threads", _positive_int, "threads of onnxruntime"),
        ("max_streams", _positive_int, "streams at once"),
        ("max_uploads", _positive_int, "uploads at once"),
        ("max_upload_mb", _positive, "size of one upload in MB"),
        ("max_duration_s", _positive, "audio of one stream or upload"),
        ("max_queue_s", _positive, "audio of a stream that may wait before its socket is not read"),
        ("idle_s", _positive, "silence of a client before it is given up"),
        ("drain_s", _positive, "time for running streams after SIGTERM"),
        ("reload_s", _positive, "how often a registry alias is looked up"),
    ):
        default = getattr(_DEFAULTS, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=convert, default=default, metavar="N", help=f"{text} ({default:g})"
        )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: the address cannot be bound.
        ArtifactError, RegistryError: a bundle cannot be used.
    """
    from mvqkd.serve.models import ModelSource
    from mvqkd.serve.protocol import MODEL_NAMES
    from mvqkd.serve.server import serve

    names = [name for name in ServeSettings.__dataclass_fields__ if name in arguments]
    settings = ServeSettings(
        **{name: getattr(arguments, name) for name in names}, allow_origins=tuple(arguments.allow_origin)
    )
    if not settings.is_loopback:
        _log.warning(
            "LISTENING ON %s: whoever reaches this address can use the recogniser and read its metrics. There is no"
            " authentication and no TLS here: put a proxy with both in front of it.",
            settings.host,
        )
    sources = {
        name: ModelSource(name, location, settings.num_threads, settings.int8)
        for name, location in zip(MODEL_NAMES, (arguments.bundle, arguments.challenger), strict=True)
        if location
    }

    def announce(url: str) -> None:
        print(f"serving {' and '.join(sources)} at {url} (Ctrl-C ends it)", flush=True)

    code = serve(settings, sources, announce)
    print("the server has ended", flush=True)
    return code


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is no port")
    return value
