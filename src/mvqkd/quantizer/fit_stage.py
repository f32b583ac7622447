"""The stage fit-quantizer: sampled teacher embeddings in, a quantizer and its report out.

Payload of a ``quantizer``: ``quantizer.safetensors`` and ``report.json``.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import ArtifactCorruptError, ConfigError, DataError
from mvqkd.quantizer.fit import fit
from mvqkd.quantizer.report import report

KIND = "quantizer"
REPORT_FILE = "report.json"
# Below this many cuts, holding whole ones out would leave too little of the speech to fit on.
FEWEST_CUTS_TO_HOLD_OUT = 10
# The errors of every refine pass are measured on so many frames at most, the use of entries on so many more.
MAX_HELD_OUT_FRAMES = 4096
USAGE_FRAMES = 8192

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Teacher embeddings of an artifact: float16 (B, D), and int64 (B,) positions of their cuts in its list of cuts."""

    embeddings: Tensor
    cut_index: Tensor


def fit_quantizer(config: FitQuantizerConfig, *, teacher_embeddings: Path, out: Path) -> Artifact:
    """Fit a quantizer, measure it on frames it has not seen, write both.

    Args:
        teacher_embeddings: artifact of sampled frames.
        out: where the quantizer artifact goes.
    Raises:
        DataError: too few frames, or NaN or infinity among them.
        TrainingError: the loss became infinite.
        ArtifactNotFoundError, ArtifactMismatchError, ArtifactCorruptError.
    """
    parent = load_artifact(teacher_embeddings, "teacher-embeddings")
    device = _device(config.device)
    partial = PartialArtifact(out, KIND, stage=config.section, config=config.model_dump(mode="json"), parents=[parent])
    sample = read_sample(parent)
    held_out_rows = hold_out(sample.cut_index, config.held_out_share, config.seed)
    fitted_on = sample.embeddings[~held_out_rows]
    held_out = sample.embeddings[held_out_rows][:MAX_HELD_OUT_FRAMES]
    started = time.monotonic()
    quantizer = fit(fitted_on, config, device=device)
    fit_s = time.monotonic() - started
    measured = report(quantizer, held_out, fitted_on[:USAGE_FRAMES], config.refine_iterations)
    started = time.monotonic()
    quantizer.encode(held_out, iterations=config.refine_iterations)
    encode_s = time.monotonic() - started
    quantizer.save(partial.path)
    write_json(partial.path / REPORT_FILE, asdict(measured))
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
            **asdict(measured),
            "fitted_frames": len(fitted_on),
            "fit_s": round(fit_s, 2),
            "encode_frames_per_s": round(len(held_out) / encode_s),
        },
    )
    _LOG.info(
        "fit-quantizer: relative error %.4f on %d held-out frames, %d bytes a frame (1/%.0f), %d dead entries, %.1f s",
        *(measured.relative_error, measured.held_out_frames, measured.bytes_per_frame),
        *(measured.compression_ratio, measured.dead_entries, artifact.wall_s),
    )
    return artifact


def read_sample(artifact: Artifact) -> Sample:
    """Read all shards of a teacher-embeddings artifact.

    Raises:
        ArtifactCorruptError: a shard does not hold what it should.
        DataError: there are no frames.
    """
    embeddings, cut_index = [], []
    for name in sorted(name for name in artifact.files if name.endswith(".safetensors")):
        try:
            shard = load_file(artifact.path / name)
            embeddings.append(shard["embeddings"])
            cut_index.append(shard["cut_index"])
        except (SafetensorError, KeyError) as error:
            raise ArtifactCorruptError(
                f"{artifact.kind} {artifact.path} ({artifact.short_id}), file {name}",
                expected="tensors embeddings and cut_index",
                got=str(error),
                next_step="re-run extract-teacher",
            ) from error
    if not embeddings or not sum(map(len, embeddings)):
        raise DataError(
            f"{artifact.kind} {artifact.path} ({artifact.short_id})",
            expected="embeddings to fit on",
            got="none",
            next_step="re-run extract-teacher on a split with speech",
        )
    return Sample(torch.cat(embeddings), torch.cat(cut_index))


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


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: CUDA asked of a CPU-only build
        raise ConfigError(
            f"fit-quantizer.device {name}",
            expected="a device that torch sees here",
            got=str(error).splitlines()[0],
            next_step="use auto or cpu",
        ) from error
    return name
