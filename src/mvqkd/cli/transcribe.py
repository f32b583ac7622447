"""mvqkd transcribe: print what is said in recordings, with a bundle or the registry's champion. Loads no torch."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvqkd.cli.argument_types import positive_int
from mvqkd.cli.params import model_name
from mvqkd.cli.transcribe_input import STDIN, Source, find_audio
from mvqkd.errors import MvqkdError

if TYPE_CHECKING:
    from mvqkd.cli.transcribe_output import Output
    from mvqkd.decode.transcript import Transcript

_PCM_FORMATS = ("s16le", "s16be", "s32le", "f32le", "u8")
_EXIT_SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to hear, how to recognise it and how to print it."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="audio files, folders to search for them, or - for stdin"
    )
    parser.add_argument(
        "--bundle",
        metavar="DIR|models:/NAME@ALIAS",
        help="bundle to use: a directory of export-onnx or a registered version (the champion of promote.model_name)",
    )
    parser.add_argument("--int8", action="store_true", help="use the quantised graphs")
    parser.add_argument("--num-threads", type=positive_int, default=1, metavar="N", help="threads of onnxruntime (1)")
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML that names the model (params.yaml)")

    audio = parser.add_argument_group("audio")
    audio.add_argument("--mix-down", action="store_true", help="average the channels of a recording that has several")
    audio.add_argument("--raw", choices=_PCM_FORMATS, help="the audio is raw PCM of this format, interleaved")
    audio.add_argument(
        "--rate", type=positive_int, default=16_000, metavar="HZ", help="sampling rate of raw PCM (16000)"
    )
    audio.add_argument("--channels", type=positive_int, default=1, metavar="N", help="channels of raw PCM (1)")

    search = parser.add_argument_group("search, offline")
    search.add_argument(
        "--decoder", choices=("greedy", "modified_beam_search"), help="greedy, or a beam (greedy; a beam with hotwords)"
    )
    search.add_argument(
        "--beam-size", type=positive_int, default=4, metavar="N", help="hypotheses kept by the beam (4)"
    )
    search.add_argument("--hotwords", type=Path, metavar="FILE", help="phrases to favour, one a line: PHRASE [:SCORE]")
    search.add_argument(
        "--hotwords-score",
        type=float,
        metavar="X",
        help="bonus a token for phrases without one, as sherpa-onnx's (1.5)",
    )
    search.add_argument(
        "--batch-duration", type=float, default=0.0, metavar="S", help="padded seconds decoded at once; 0: one by one"
    )

    stream = parser.add_argument_group("streaming")
    stream.add_argument("--stream", action="store_true", help="recognise while the audio arrives, with partial results")
    stream.add_argument(
        "--real-time", action="store_true", help="feed a file at the speed of speech, to watch it or to measure latency"
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", choices=("text", "json", "jsonl", "srt", "vtt"), default="text", help="(text); subtitles: srt, vtt"
    )
    output.add_argument("--output-dir", type=Path, metavar="DIR", help="write a file for each recording, not to stdout")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Transcribe recording by recording; one that cannot be read is reported and the others go on.

    Returns:
        0, or 1 when a recording failed.
    """
    _check_usage(arguments)
    names = [name for given in arguments.files for name in find_audio(given)]
    source, output = _source(arguments), _output(arguments, names)
    directory = find_bundle(arguments.bundle, arguments.params)
    transcribe = importlib.import_module(
        f"mvqkd.cli.transcribe_{'stream' if arguments.stream else 'offline'}"
    ).transcribe
    done: list[Transcript] = []
    for found, note in transcribe(arguments, directory, names, source, output):
        if isinstance(found, MvqkdError):
            _report(f"mvqkd transcribe: {found}")
        else:
            done.append(found)
            _report(f"{found.audio}: {found.duration_s:.2f} s of audio, RTF {found.rtf:.4f}{note}")
    output.close()
    if len(done) > 1:
        duration_s, wall_s = sum(found.duration_s for found in done), sum(found.wall_s for found in done)
        _report(f"{len(done)} recordings: {duration_s:.2f} s of audio, RTF {wall_s / duration_s:.4f}")
    return 0 if len(done) == len(names) else _EXIT_SOME_FAILED


def find_bundle(bundle: str | None, params: Path | None) -> Path:
    """Find and verify a bundle.

    Args:
        bundle: a directory, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or None for the champion.
        params: file whose section ``promote`` names the model of the champion; None: params.yaml where there is one.
    Raises:
        ArtifactError: the bundle is missing or its bytes are not those that were written.
        RegistryError: no registry, model or alias of that name.
    """
    if bundle is None:
        bundle = f"models:/{model_name(params)}@champion"
    from mvqkd.adapters.registry import resolve_bundle

    return resolve_bundle(bundle)


def _check_usage(arguments: argparse.Namespace) -> None:
    refuse = arguments.usage_error
    if arguments.stream and (arguments.hotwords or arguments.decoder == "modified_beam_search"):
        refuse("hotwords and the beam search need whole recordings: leave --stream out")
    if arguments.hotwords and arguments.decoder == "greedy":
        refuse("--hotwords needs --decoder modified_beam_search")
    if arguments.hotwords_score is not None and not arguments.hotwords:
        refuse("--hotwords-score needs --hotwords FILE")
    if arguments.real_time and not arguments.stream:
        refuse("--real-time needs --stream")
    if arguments.files.count(Path(STDIN)) > 1:
        refuse("stdin can be read once")


def _source(arguments: argparse.Namespace) -> Source:
    # A process may be started without a stdin.
    stdin = io.BytesIO() if sys.stdin is None else sys.stdin.buffer
    if arguments.raw is None:
        return Source(stdin, mix_down=arguments.mix_down)
    from mvqkd.data.pcm import PcmLayout

    return Source(stdin, PcmLayout(arguments.raw, arguments.rate, arguments.channels), mix_down=arguments.mix_down)


def _output(arguments: argparse.Namespace, names: Sequence[str | MvqkdError]) -> Output:
    from mvqkd.cli.transcribe_output import Output, check_files_differ, terminal_columns

    readable = [name for name in names if isinstance(name, str)]
    if arguments.output_dir is not None:
        check_files_differ(arguments.output_dir, readable, arguments.format)
    elif arguments.format in ("srt", "vtt") and len(readable) > 1:
        arguments.usage_error(f"{arguments.format} of {len(readable)} recordings needs --output-dir DIR")
    return Output(
        arguments.format,
        sys.stdout,
        directory=arguments.output_dir,
        streaming=arguments.stream,
        columns=terminal_columns if sys.stdout.isatty() else None,
    )


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
