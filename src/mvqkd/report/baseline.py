"""What a quantizer was fitted on, as ``monitor`` compares with it: errors of held-out frames, use of entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.codebook.encode import check_same_teacher
from mvqkd.codebook.store import CodebookIndexStore
from mvqkd.device import resolve_device
from mvqkd.errors import ArtifactMismatchError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.drift import Errors, Usage, by_piece, measure
from mvqkd.quantizer.embedding_shards import CUTS_FILE, EmbeddingShards
from mvqkd.quantizer.fit_stage import hold_out
from mvqkd.quantizer.search import SearchMode
from mvqkd.teacher.base import Teacher
from mvqkd.teacher.extract import teacher_of

# Enough for any share to be known well; more would cost time at every run.
MAX_FRAMES = 200_000
MAX_PIECES = 4_000


@dataclass(frozen=True)
class Baseline:
    """Fitting data, the codec and the teacher that it was made with.

    Attributes:
        errors: of frames held out from fitting, cut after cut.
        usage: of all frames, or of those that the store holds, cut after cut.
        mode: how indexes are searched for, here as in the store.
        source: where the use of entries comes from, for people.
    """

    quantizer: Quantizer
    quantizer_id: str
    teacher: Teacher
    errors: Errors
    usage: Usage
    mode: SearchMode
    iterations: int
    source: str

    def described(self) -> dict[str, Any]:
        """What it is, in plain JSON values."""
        return {
            "quantizer_id": self.quantizer_id,
            "teacher_id": self.teacher.id,
            "layer": self.teacher.layer,
            "held_out_frames": len(self.errors.errors),
            "held_out_cuts": len(self.errors.lengths),
            "usage": self.source,
        }


def load_baseline(
    *, quantizer: Path, teacher_embeddings: Path, codebook_indexes: Path | None = None, device: str = "auto"
) -> Baseline:
    """Read what new audio is compared with.

    Args:
        teacher_embeddings: what the quantizer was fitted on; names the teacher.
        codebook_indexes: the store of that quantizer. It has every frame of a cut, where the embeddings are a sample:
            with it chance is known better. None: the embeddings serve.
    Raises:
        ArtifactError: one is missing, corrupt, or made from other data than the others.
        TeacherError: the teacher's weights are missing.
    """
    embeddings = load_artifact(teacher_embeddings, "teacher-embeddings", verify="size")
    fitted = load_artifact(quantizer, "quantizer")
    check_same_teacher(fitted, embeddings)
    return baseline_with_teacher(
        teacher_of(embeddings, device),
        quantizer=fitted,
        teacher_embeddings=embeddings,
        codebook_indexes=codebook_indexes,
        device=device,
    )


def baseline_with_teacher(
    teacher: Teacher,
    *,
    quantizer: Artifact,
    teacher_embeddings: Artifact,
    codebook_indexes: Path | None = None,
    device: str = "auto",
) -> Baseline:
    """``load_baseline`` with a teacher at hand and loaded artifacts."""
    codec = Quantizer.load(quantizer.path, resolve_device(device))
    shards, iterations = EmbeddingShards(teacher_embeddings), int(quantizer.facts["refine_iterations"])
    store = None if codebook_indexes is None else _store(codebook_indexes, quantizer)
    mode: SearchMode = "exact" if store is None else store.artifact.config.get("mode", "exact")
    held_out = hold_out(shards.cut_index, quantizer.config["held_out_share"], quantizer.config["seed"])
    _, errors = _measured(codec, shards, held_out, mode, iterations)
    usage = None if store is None else _usage_of_store(store, teacher_embeddings)
    source = f"the codebook indexes of {0 if usage is None else len(usage.lengths):,} cuts"
    if usage is None:
        usage, _ = _measured(codec, shards, torch.ones_like(held_out), mode, iterations)
        source = f"{len(usage.codes):,} sampled frames of {len(usage.lengths):,} cuts"
    return Baseline(codec, quantizer.id, teacher, errors, usage, mode, iterations, source)


def _store(path: Path, quantizer: Artifact) -> CodebookIndexStore:
    store = CodebookIndexStore.open(path)
    if store.artifact.facts["quantizer_id"] != quantizer.id:
        raise ArtifactMismatchError(
            f"codebook-indexes {path} ({store.artifact.short_id})",
            expected=f"indexes of quantizer {quantizer.short_id}",
            got=f"those of {str(store.artifact.facts['quantizer_id'])[:12]}",
            next_step="pass the store of that quantizer, or none",
        )
    return store


def _measured(
    codec: Quantizer, shards: EmbeddingShards, rows: torch.Tensor, mode: SearchMode, iterations: int
) -> tuple[Usage, Errors]:
    """Chosen frames of the sample, cut after cut. They lie in random order: the first are as good as any."""
    codes, errors, variations = measure(codec, shards.gather(rows, MAX_FRAMES), mode=mode, iterations=iterations)
    order, lengths = by_piece(shards.cut_index[rows][:MAX_FRAMES])
    places = order.numpy()
    return (
        Usage(codes[places], lengths, codec.codebook_size),
        Errors(errors[places], variations[places], lengths),
    )


def _usage_of_store(store: CodebookIndexStore, embeddings: Artifact) -> Usage | None:
    """The whole cuts that frames were sampled from, at their own speed; None where the store has none of them."""
    cut_ids: list[str] = []
    if CUTS_FILE in embeddings.files and 1.0 in _speeds(store.artifact.facts):
        names = json.loads((embeddings.path / CUTS_FILE).read_text(encoding="utf-8"))["cut_ids"]
        cut_ids = [name for name in names if name in store and store.num_frames(name)]
    if not cut_ids:
        return None
    if len(cut_ids) > MAX_PIECES:
        chosen = np.random.default_rng(0).choice(len(cut_ids), MAX_PIECES, replace=False)
        cut_ids = [cut_ids[number] for number in sorted(chosen.tolist())]
    codes = [store.read(name) for name in cut_ids]
    lengths = np.array([len(rows) for rows in codes], dtype=np.int64)
    return Usage(np.concatenate(codes), lengths, store.codebook_size)


def _speeds(facts: Mapping[str, Any]) -> list[float]:
    return [float(speed) for speed in facts.get("speeds", [1.0])]
