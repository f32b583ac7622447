"""Every limit of the server in one place, each with the reason for its default."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

DEFAULT_PORT = 8470


@dataclass(frozen=True)
class ServeSettings:
    """What the command line decides. Durations are seconds of audio or of wall time, as named."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    max_streams: int = 64
    """Streams at once; docs/serving.md says how many a core holds in real time."""
    max_uploads: int = 4
    """Uploads at once, arriving or being decoded; each may hold max_upload_mb on disk and its samples in memory."""
    max_upload_mb: float = 32.0
    """An hour of 64 kb/s speech or 17 minutes of 16 kHz WAV."""
    max_duration_s: float = 3600.0
    """Audio of one stream or upload: nobody speaks longer without a pause in which to connect again."""
    max_queue_s: float = 30.0
    """Audio of a stream that waits to be decoded; beyond it the server stops reading from that socket."""
    max_batch: int = 64
    """Streams in one call of the recogniser."""
    start_timeout_s: float = 10.0
    """A client that has connected says what it wants within this time."""
    idle_s: float = 30.0
    """Longest silence of a client (no bytes at all, not no speech) before it is given up."""
    drain_s: float = 20.0
    """After SIGTERM: time in which running streams get their last result. Below Kubernetes' 30 s."""
    reload_s: float = 30.0
    """How often the alias of a registered model is looked up."""
    num_threads: int = 1
    """Threads of onnxruntime: batches of small models gain nothing from more."""
    int8: bool = False
    allow_origins: tuple[str, ...] = ()
    """Web origins besides the server's own whose pages may use it."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def max_upload_bytes(self) -> int:
        return round(self.max_upload_mb * 1_000_000)
