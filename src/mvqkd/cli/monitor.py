"""``mvqkd monitor``: does new audio still look like what the quantizer was fitted on? Exit code 3 says: no."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvqkd.cli.argument_types import positive, positive_int
from mvqkd.cli.params import params_file
from mvqkd.cli.transcribe_input import find_audio
from mvqkd.errors import MvqkdError

if TYPE_CHECKING:
    from mvqkd.report.monitor import Monitored
    from mvqkd.report.recordings import Recording

EXIT_DRIFT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to listen to, what to compare it with, and what counts as drift."""
    parser.epilog = (
        f"Exit codes: 0 no drift, {EXIT_DRIFT} drift, 1 the question could not be answered (too little audio, a"
        " missing artifact), 2 wrong usage."
    )
    what = parser.add_argument_group("what to listen to (one of these)")
    what.add_argument("files", nargs="*", type=Path, metavar="AUDIO", help="audio files, or folders to search for them")
    what.add_argument(
        "--manifest", type=Path, metavar="FILE", help="JSON lines of audio[, text, id]; with text, WER is compared too"
    )
    what.add_argument("--cuts", type=Path, metavar="FILE", help="a lhotse CutSet, .jsonl or .jsonl.gz")
    what.add_argument("--mix-down", action="store_true", help="average the channels of a recording that has several")
    what.add_argument(
        "--max-audio-s",
        type=positive,
        default=3600.0,
        metavar="S",
        help="stop after so much audio, drawn at random: an hour leaves little to chance (3600)",
    )
    _add_artifacts(parser)
    _add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML that names the experiment (params.yaml)")
    parser.set_defaults(usage_error=parser.error)


def _add_artifacts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("artifacts")
    group.add_argument(
        "--artifacts-dir", type=Path, default=Path("artifacts"), help="where all artifacts lie (artifacts)"
    )
    group.add_argument("--quantizer", type=Path, metavar="DIR", help="quantizer (ARTIFACTS/quantizer)")
    group.add_argument(
        "--teacher-embeddings",
        type=Path,
        metavar="DIR",
        help="what it was fitted on (ARTIFACTS/teacher-embeddings)",
    )
    group.add_argument(
        "--codebook-indexes",
        type=Path,
        metavar="DIR",
        help="its store; every frame of it instead of a sample (ARTIFACTS/codebook-indexes, where there is one)",
    )
    group.add_argument(
        "--bundle",
        metavar="DIR|models:/NAME@ALIAS",
        help="what hears recordings that have a text (ARTIFACTS/bundle, where there is one)",
    )
    group.add_argument("--device", default="auto", help="of the teacher and the quantizer (auto)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what counts as drift: all that chance hardly explains, from these sizes on")
    group.add_argument(
        "--max-false-alarms",
        type=positive,
        default=0.01,
        metavar="P",
        help="share of runs that may sound an alarm where nothing has changed, over all checks; daily, one in a hundred"
        " is three or four a year (0.01)",
    )
    group.add_argument(
        "--max-error-change",
        type=positive,
        default=0.07,
        metavar="SHARE",
        help="change of the relative error, up or down: four unseen speakers of the same kind of speech change it by"
        " 0.05, a telephone band by 0.09 and more (0.07)",
    )
    group.add_argument(
        "--max-usage-divergence",
        type=positive,
        default=0.02,
        metavar="BITS",
        help="Jensen-Shannon divergence of the use of entries beyond what chance gives: unseen speakers give 0.01,"
        " white noise at 20 dB gives 0.025 (0.02)",
    )
    group.add_argument(
        "--max-wer-increase",
        type=positive,
        default=0.02,
        metavar="SHARE",
        help="WER above that of record: two points are noticed by those who read the text (0.02)",
    )
    group.add_argument(
        "--min-recordings",
        type=positive_int,
        default=25,
        metavar="N",
        help="fewer are refused: by chance they differ by more than these limits (25)",
    )
    group.add_argument(
        "--max-unreadable-share",
        type=positive,
        default=0.1,
        metavar="SHARE",
        help="recordings that may be damaged; more of them are a fault of another kind (0.1)",
    )
    group.add_argument(
        "--resamples", type=positive_int, default=1000, metavar="N", help="draws from the fitting data (1000)"
    )
    group.add_argument("--seed", type=int, default=0, help="of these draws and of the choice of recordings (0)")


def run(arguments: argparse.Namespace) -> int:
    """Listen, compare, print, log.

    Returns:
        0, or 3 where something has drifted.
    Raises:
        DataError: too few recordings to tell.
        ArtifactError: an artifact is missing, corrupt or of another lineage.
    """
    if sum((bool(arguments.files), arguments.manifest is not None, arguments.cuts is not None)) != 1:
        arguments.usage_error("name audio files, or --manifest FILE, or --cuts FILE")
    if arguments.max_false_alarms >= 1:
        arguments.usage_error("--max-false-alarms must be below 1")
    recordings = _recordings(arguments)
    from mvqkd.adapters.monitor_metrics import log_metrics
    from mvqkd.report.baseline import load_baseline
    from mvqkd.report.monitor import Limits, monitor

    root: Path = arguments.artifacts_dir
    baseline = load_baseline(
        quantizer=arguments.quantizer or root / "quantizer",
        teacher_embeddings=arguments.teacher_embeddings or root / "teacher-embeddings",
        codebook_indexes=arguments.codebook_indexes or _existing(root / "codebook-indexes"),
        device=arguments.device,
    )
    limits = Limits(
        max_false_alarms=arguments.max_false_alarms,
        max_error_change=arguments.max_error_change,
        max_usage_divergence=arguments.max_usage_divergence,
        max_wer_increase=arguments.max_wer_increase,
        min_recordings=arguments.min_recordings,
        max_unreadable_share=arguments.max_unreadable_share,
        max_audio_s=arguments.max_audio_s,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    has_text = any(recording.text is not None for recording in recordings)
    found = monitor(recordings, baseline, limits, bundle=_bundle(arguments) if has_text else None)
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines(found)))
    log_metrics(found.metrics(), baseline.quantizer_id, params_file(arguments.params))
    return EXIT_DRIFT if found.drift else 0


def lines(found: Monitored) -> Iterator[str]:
    """The outcome for a person."""
    drifted = [check.name for check in found.checks if check.verdict == "drift"]
    yield f"drift: {', '.join(drifted)}" if drifted else "no drift"
    for check in found.checks:
        yield f"  {check.verdict:5}  {check.name}: {check.explanation}"
    yield (
        f"  of     {found.recordings} recordings, {found.duration_s / 60:.1f} min; compared with "
        f"{found.baseline['held_out_cuts']} held-out cuts and {found.baseline['usage']}"
    )
    for line in found.unreadable:
        yield f"  not    {line}"
    if drifted:
        yield "  recordings least like the fitting data, by relative error:"
        for row in found.worst:
            yield f"    {row['relative_error']:.3f}  {row['id']}"


def _recordings(arguments: argparse.Namespace) -> list[Recording]:
    """Everything there is to listen to, in random order: the first of them stand for all."""
    from mvqkd.report.recordings import from_cuts, from_file, from_manifest

    if arguments.manifest is not None:
        found = from_manifest(arguments.manifest, mix_down=arguments.mix_down)
    elif arguments.cuts is not None:
        found = from_cuts(arguments.cuts, mix_down=arguments.mix_down)
    else:
        found = [from_file(path, mix_down=arguments.mix_down) for path in _files(arguments.files)]
    random.Random(arguments.seed).shuffle(found)
    return found


def _files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        for name in find_audio(path):
            if isinstance(name, MvqkdError):
                raise name
            yield Path(name)


def _bundle(arguments: argparse.Namespace) -> Path | None:
    root: Path = arguments.artifacts_dir
    if arguments.bundle is None and _existing(root / "bundle") is None:
        return None
    from mvqkd.adapters.registry import resolve_bundle

    return resolve_bundle(arguments.bundle or str(root / "bundle"))


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
