"""mvqkd serve: recognise speech for clients over WebSocket and HTTP. Loads no torch."""

from __future__ import annotations

import argparse
import logging

from mvqkd.cli.argument_types import port, positive, positive_int
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
    parser.add_argument("--port", type=port, default=_DEFAULTS.port, help=f"0: any free ({_DEFAULTS.port})")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="web origin whose pages may use the server"
    )
    parser.add_argument("--int8", action="store_true", help="use the quantised graphs")
    for name, convert, text in (
        ("num_threads", positive_int, "threads of onnxruntime"),
        ("max_streams", positive_int, "streams at once"),
        ("max_uploads", positive_int, "uploads at once"),
        ("max_upload_mb", positive, "size of one upload in MB"),
        ("max_duration_s", positive, "audio of one stream or upload"),
        ("max_queue_s", positive, "audio of a stream that may wait before its socket is not read"),
        ("idle_s", positive, "silence of a client before it is given up"),
        ("drain_s", positive, "time for running streams after SIGTERM"),
        ("reload_s", positive, "how often a registry alias is looked up"),
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
