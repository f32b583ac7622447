"""Bundles in memory: which one a name stands for now, and who still uses one that was replaced."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mvqkd.artifacts import load_artifact
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.streaming import StreamingRecognizer
from mvqkd.errors import RegistryError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.protocol import ModelName

_log = logging.getLogger(__name__)
_ALIAS_URI = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")


@dataclass(eq=False)
class LoadedModel:
    """A verified bundle, opened for streams and for whole recordings."""

    name: ModelName
    bundle_id: str
    version: str
    """Version in the registry; empty for a directory."""
    recognizer: StreamingRecognizer
    transducer: OnnxTransducer
    users: int = 0

    def describe(self) -> dict[str, object]:
        """What a client may know of it."""
        return {
            "model": self.name,
            "version": self.version,
            "bundle_id": self.bundle_id,
            "chunk_s": round(self.recognizer.chunk_s, 4),
            "latency_s": round(self.recognizer.latency_s, 4),
        }


@dataclass(frozen=True)
class ModelSource:
    """Where the bundle of a name comes from: a directory, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``."""

    name: ModelName
    location: str
    num_threads: int = 1
    int8: bool = False

    @property
    def has_alias(self) -> bool:
        """Whether what it names may change by itself."""
        return _ALIAS_URI.fullmatch(self.location) is not None

    def find(self) -> tuple[str, str]:
        """What it names now, cheaply: a location that stays the same bundle, and the registry's version or "".

        Raises:
            RegistryError: the registry does not answer, or has no such alias any more.
        """
        if (match := _ALIAS_URI.fullmatch(self.location)) is None:
            return self.location, self.location.rpartition("/")[2] if self.location.startswith("models:") else ""
        from mvqkd.adapters.mlflow_store import connect, registry_errors, registry_is_missing
        from mvqkd.adapters.registry import resolve_bundle, version_by_alias

        if registry_is_missing():
            # Its error says which file is missing.
            resolve_bundle(self.location)
        client = connect()
        with registry_errors(f"looking up {self.location}"):
            version = version_by_alias(client, match["name"], match["alias"])
        if version is None:
            raise RegistryError(
                f"bundle {self.location}",
                expected=f"a version under the alias {match['alias']}",
                got="no such model or alias",
                next_step="run `mvqkd promote`, or name a directory",
            )
        return f"models:/{match['name']}/{version.version}", str(version.version)

    def load(self) -> LoadedModel:
        """Verify, open and try the bundle that it names now.

        Raises:
            ArtifactError, RegistryError: there is none, or it is not what was registered, or cannot be run.
        """
        from mvqkd.adapters.registry import resolve_bundle

        location, version = self.find()
        directory = resolve_bundle(location)
        bundle_id = load_artifact(directory, verify="size").id
        model = LoadedModel(
            self.name,
            bundle_id,
            version,
            StreamingRecognizer(directory, num_threads=self.num_threads, int8=self.int8),
            OnnxTransducer(directory, num_threads=self.num_threads, int8=self.int8),
        )
        _try_out(model)
        return model


class ModelSlot:
    """The bundle that new streams of one name get. Replacing it leaves running streams where they are."""

    def __init__(self, source: ModelSource, metrics: Metrics, load: Callable[[], LoadedModel] | None = None) -> None:
        self.source = source
        self._metrics = metrics
        self._load = load or source.load
        self._lock = threading.Lock()
        self.current = self._load()
        metrics.models_loaded.inc()
        self._announce()

    def update(self, *, force: bool = False) -> bool:
        """Load what the source names now, if that is another bundle; whether the bundle was replaced. Slow.

        Args:
            force: load even if the source's name for it has not changed (a directory).
        Raises:
            MvqkdError: it cannot be used; the old bundle stays.
        """
        if not force and self.source.find()[1] == self.current.version:
            return False
        fresh = self._load()
        if (fresh.bundle_id, fresh.version) == (self.current.bundle_id, self.current.version):
            return False
        with self._lock:
            old, self.current = self.current, fresh
            is_unused = old.users == 0
        self._metrics.models_loaded.inc(0 if is_unused else 1)
        self._metrics.model_info.remove(old.name, old.version, old.bundle_id[:12])
        self._announce()
        _log.info("%s is now bundle %s version %s", old.name, fresh.bundle_id[:12], fresh.version or "-")
        return True

    @contextmanager
    def use(self) -> Iterator[LoadedModel]:
        """The bundle of now, kept until the block ends even when another takes its place."""
        with self._lock:
            model = self.current
            model.users += 1
        try:
            yield model
        finally:
            with self._lock:
                model.users -= 1
                is_last = model.users == 0 and model is not self.current
            if is_last:
                # onnxruntime frees a session with its last reference, which the caller drops now.
                self._metrics.models_loaded.dec()
                _log.info("bundle %s has no stream left", model.bundle_id[:12])

    def _announce(self) -> None:
        model = self.current
        self._metrics.model_info.labels(model.name, model.version, model.bundle_id[:12]).set(1)


def _try_out(model: LoadedModel) -> None:
    """Run every graph once, on audio that must not fail: a bundle that breaks here is not served."""
    samples = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE_HZ).astype(np.float32)
    model.recognizer.transcribe(samples)
    model.transducer.transcribe([samples])
