"""The stage fit-quantizer: sampled teacher embeddings in, a quantizer and its report out.

Payload of a ``quantizer``: ``quantizer.safetensors``, ``report.json`` and ``report.png``.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import FitQuantizerConfig
from mvqkd.device import resolve_device
from mvqkd.quantizer.embedding_shards import EmbeddingShards
from mvqkd.quantizer.embedding_source import EmbeddingStream
from mvqkd.quantizer.fit import Fit, fit
from mvqkd.quantizer.report import QuantizerReport, report
from mvqkd.quantizer.report_plots import write_plots

KIND = "quantizer"
REPORT_FILE = "report.json"
PLOTS_FILE = "report.png"
# Below this many cuts, holding whole ones out would leave too little of the speech to fit on.
FEWEST_CUTS_TO_HOLD_OUT = 10
# The errors of every refine pass are measured on so many frames at most, the use of entries on so many more.
MAX_HELD_OUT_FRAMES = 4096
USAGE_FRAMES = 8192

_LOG = logging.getLogger(__name__)


def fit_quantizer(config: FitQuantizerConfig, *, teacher_embeddings: Path, out: Path) -> Artifact:
    """Fit a quantizer, measure it on frames it has not seen, write both.

    A killed fit goes on where its last checkpoint was, in the folder of the unfinished artifact.

    Args:
        teacher_embeddings: artifact of sampled frames.
        out: where the quantizer artifact goes.
    Raises:
        DataError: too few frames, or NaN or infinity among them.
        TrainingError: the loss became infinite.
        ArtifactNotFoundError, ArtifactMismatchError, ArtifactCorruptError.
    """
    parent = load_artifact(teacher_embeddings, "teacher-embeddings")
    device = resolve_device(config.device)
    partial = PartialArtifact(out, KIND, stage=config.section, config=config.model_dump(mode="json"), parents=[parent])
    shards = EmbeddingShards(parent)
    held_out_rows = hold_out(shards.cut_index, config.held_out_share, config.seed)
    fitted_rows = ~held_out_rows
    held_out = shards.gather(held_out_rows, MAX_HELD_OUT_FRAMES)
    fitted = fit(
        _source(shards, fitted_rows, config.buffer_frames),
        config,
        device=device,
        held_out=held_out,
        resume_dir=partial.path,
    )
    quantizer = fitted.quantizer
    measured = report(
        quantizer,
        held_out,
        shards.gather(fitted_rows, USAGE_FRAMES),
        config.refine_iterations,
        domains=shards.speakers(shards.cut_index[held_out_rows][:MAX_HELD_OUT_FRAMES]),
        error_curve=fitted.error_curve,
    )
    started = time.monotonic()
    quantizer.encode(held_out, iterations=config.refine_iterations)
    encode_s = time.monotonic() - started
    quantizer.save(partial.path)
    write_json(partial.path / REPORT_FILE, asdict(measured))
    title = f"{parent.facts['teacher_id']}, layer {parent.facts['layer']}: {quantizer.bytes_per_frame} bytes a frame"
    write_plots(measured, partial.path / PLOTS_FILE, title)
    artifact = partial.commit(
        facts={
            "dim": quantizer.dim,
            "num_codebooks": quantizer.num_codebooks,
            "codebook_size": quantizer.codebook_size,
            "bytes_per_frame": quantizer.bytes_per_frame,
            "refine_iterations": config.refine_iterations,
            "codec_id": quantizer.id,
            "teacher_id": parent.facts["teacher_id"],
            "layer": parent.facts["layer"],
            "rate_hz": parent.facts["rate_hz"],
        },
        figures={
            **_figures(measured, fitted),
            "fitted_frames": int(fitted_rows.sum()),
            "encode_frames_per_s": round(len(held_out) / encode_s),
        },
    )
    _LOG.info(
        "fit-quantizer: relative error %.4f on %d held-out frames, %d bytes a frame (1/%.0f), %d dead entries, %.1f s",
        *(measured.relative_error, measured.held_out_frames, measured.bytes_per_frame),
        *(measured.compression_ratio, measured.dead_entries, artifact.wall_s),
    )
    return artifact


def _source(shards: EmbeddingShards, rows: Tensor, buffer_frames: int) -> Tensor | EmbeddingStream:
    """The chosen frames: in memory where they fit the buffer, else as a stream."""
    if int(rows.sum()) <= buffer_frames:
        return shards.gather(rows)
    return EmbeddingStream(lambda: shards.blocks(rows), buffer_frames=buffer_frames)


def _figures(measured: QuantizerReport, fitted: Fit) -> dict[str, object]:
    return {
        **measured.figures(),
        "relative_error_by_iteration": measured.relative_error_by_iteration,
        "entropy": measured.entropy,
        "error_curve": [asdict(point) for point in fitted.error_curve],
        "steps": fitted.steps,
        "stopped_early": fitted.stopped_early,
        "fit_s": round(fitted.wall_s, 2),
        "fit_cpu_s": round(fitted.cpu_s, 2),
    }


def hold_out(cut_index: Tensor, share: float, seed: int) -> Tensor:
    """Choose the frames that the quantizer is judged on: those of whole cuts, unless there are hardly any cuts.

    Neighbouring frames resemble each other: frames of a cut that was fitted on would flatter the error.

    Args:
        cut_index: int64 (B,), cut of every frame.
        share: of the cuts (or frames) to hold out; at least one frame is.
        seed: of the choice.
    Returns:
        bool (B,).
    """
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.unique(cut_index)
    if len(cuts) >= FEWEST_CUTS_TO_HOLD_OUT:
        chosen = cuts[torch.randperm(len(cuts), generator=generator)[: max(1, round(share * len(cuts)))]]
        return torch.isin(cut_index, chosen)
    rows = torch.randperm(len(cut_index), generator=generator)[: max(1, round(share * len(cut_index)))]
    return torch.zeros(len(cut_index), dtype=torch.bool).index_fill_(0, rows, value=True)


def read_report(artifact: Artifact) -> dict[str, object]:
    """report.json of a quantizer artifact."""
    document: dict[str, object] = json.loads((artifact.path / REPORT_FILE).read_text(encoding="utf-8"))
    return document
