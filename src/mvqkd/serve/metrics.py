"""What the server counts, for Prometheus. A registry of its own: two servers in a process do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Metrics:
    """Every metric, named ``mvqkd_...``. Updating one is thread-safe."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.streams_open = Gauge("mvqkd_streams_open", "Streams being served", ["model"], registry=registry)
        self.uploads_open = Gauge("mvqkd_uploads_open", "Uploads arriving or being decoded", registry=registry)
        self.audio_seconds = Counter(
            "mvqkd_audio_seconds", "Audio taken in, in seconds", ["model", "kind"], registry=registry
        )
        self.batch_size = Histogram(
            "mvqkd_chunk_batch_size",
            "Streams that one call of the recogniser advanced",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "mvqkd_decode_seconds", "Time of one call of the recogniser", buckets=_SECONDS, registry=registry
        )
        self.chunk_latency_seconds = Histogram(
            "mvqkd_chunk_latency_seconds",
            "From the arrival of a chunk's last audio to its result, waiting included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.upload_seconds = Histogram(
            "mvqkd_upload_decode_seconds", "Time to decode one upload", buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Gauge(
            "mvqkd_queue_seconds", "Audio of all streams that waits to be decoded, in seconds", registry=registry
        )
        self.rejected = Counter(
            "mvqkd_rejected", "Streams and requests refused or broken off", ["reason"], registry=registry
        )
        self.disconnects = Counter(
            "mvqkd_disconnects", "Clients that left in the middle of a stream", registry=registry
        )
        self.worker_errors = Counter("mvqkd_worker_errors", "Faults while decoding", registry=registry)
        self.model_info = Gauge(
            "mvqkd_model_info", "1 for the bundle that a model name stands for now", ["model", "version", "bundle_id"],
            registry=registry,
        )  # fmt: skip
        self.models_loaded = Gauge(
            "mvqkd_models_loaded", "Bundles in memory; one more while streams end on a replaced one", registry=registry
        )
        self.swaps = Counter(
            "mvqkd_model_swaps", "Attempts to replace a bundle by a newer one", ["model", "result"], registry=registry
        )

    def measure_queue(self, queued_s: Callable[[], float]) -> None:
        """Ask ``queued_s`` whenever the metrics are read."""
        self.queue_seconds.set_function(queued_s)

    def page(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)
