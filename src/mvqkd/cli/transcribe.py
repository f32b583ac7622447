"""mvqkd transcribe: print the text of audio files with a bundle or the registry's champion. Loads no torch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvqkd.errors import AudioError, MvqkdError

if TYPE_CHECKING:
    from mvqkd.decode.onnx_runtime import OnnxTransducer

# What a folder is searched for; a file that is named itself may have any suffix.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".aac", ".aif", ".aiff", ".au", ".g722", ".webm", ".wma"}
)
_DEFAULT_PARAMS = Path("params.yaml")
_EXIT_SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files and how to decode them."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="audio files, or folders to search for them"
    )
    parser.add_argument(
        "--bundle",
        metavar="DIR|models:/NAME@ALIAS",
        help="bundle to use: a directory of export-onnx or a registered version (the champion of promote.model_name)",
    )
    parser.add_argument(
        "--format", choices=("text", "jsonl"), default="text", help="text, or one JSON object a file (text)"
    )
    parser.add_argument("--int8", action="store_true", help="use the quantised encoder")
    parser.add_argument("--num-threads", type=_positive, default=1, metavar="N", help="threads of onnxruntime (1)")
    parser.add_argument("--mix-down", action="store_true", help="average the channels of a recording that has several")
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML that names the model (params.yaml)")


def run(arguments: argparse.Namespace) -> int:
    """Transcribe file by file; a file that cannot be read is reported and the others go on.

    Returns:
        0, or 1 when a file failed.
    """
    paths = [path for given in arguments.files for path in _audio_files(given)]
    transducer = open_bundle(arguments.bundle, arguments.params, arguments.num_threads, arguments.int8)
    failed = 0
    for path in paths:
        try:
            if isinstance(path, MvqkdError):
                raise path
            result = transcribe_file(transducer, path, mix_down=arguments.mix_down)
        except MvqkdError as error:
            failed += 1
            print(f"mvqkd transcribe: {error}", file=sys.stderr, flush=True)
            continue
        if arguments.format == "jsonl":
            print(json.dumps(result, ensure_ascii=False), flush=True)
        else:
            print(result["text"], flush=True)
            print(
                f"{path}: {result['duration_s']:.2f} s of audio, RTF {result['rtf']:.4f}", file=sys.stderr, flush=True
            )
    return _EXIT_SOME_FAILED if failed else 0


def open_bundle(bundle: str | None, params: Path | None, num_threads: int, int8: bool) -> OnnxTransducer:
    """Find, verify and open a bundle.

    Args:
        bundle: a directory, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or None for the champion.
        params: file whose section ``promote`` names the model of the champion; None: params.yaml where there is one.
    Raises:
        ArtifactError: the bundle is missing or its bytes are not those that were written.
        RegistryError: no registry, model or alias of that name.
    """
    from mvqkd.decode.onnx_runtime import OnnxTransducer

    if bundle is None:
        from mvqkd.config import PromoteConfig, load_section

        file = params or (_DEFAULT_PARAMS if _DEFAULT_PARAMS.is_file() else None)
        bundle = f"models:/{load_section(PromoteConfig, file).model_name}@champion"
    if bundle.startswith("models:"):
        from mvqkd.adapters.registry import resolve_bundle

        directory = resolve_bundle(bundle)
    else:
        from mvqkd.artifacts import load_artifact

        directory = load_artifact(Path(bundle), "onnx-bundle").path
    return OnnxTransducer(directory, num_threads=num_threads, int8=int8)


def transcribe_file(transducer: OnnxTransducer, path: Path, *, mix_down: bool = False) -> dict[str, Any]:
    """Transcribe one file.

    Returns:
        audio (the path as given), text, duration_s, rtf (features and decoding; reading the file not included).
    Raises:
        AudioError: the file cannot be read.
    """
    from mvqkd.data.audio import read_audio
    from mvqkd.frames import SAMPLE_RATE_HZ

    samples = read_audio(path, mix_down=mix_down)
    started = time.perf_counter()
    (text,) = transducer.transcribe([samples])
    wall_s = time.perf_counter() - started
    duration_s = len(samples) / SAMPLE_RATE_HZ
    return {"audio": str(path), "text": text, "duration_s": round(duration_s, 3), "rtf": round(wall_s / duration_s, 5)}


def _audio_files(given: Path) -> Iterator[Path | AudioError]:
    """The file itself, or the audio files below a folder in a stable order."""
    if not given.is_dir():
        yield given
        return
    found = sorted(
        path
        for path in given.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        yield AudioError(
            f"folder {given}",
            expected=f"audio files ({', '.join(sorted(AUDIO_SUFFIXES))})",
            got="none",
            next_step="name the files themselves, or another folder",
        )
    yield from found


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
