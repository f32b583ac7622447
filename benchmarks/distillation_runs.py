"""What a run of the distillation benchmark is: artifacts that students share, one student, its figures.

Artifacts lie in a work folder and are made again only when their config or their parents have changed.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.artifacts import Artifact, content_hash, load_artifact
from mvqkd.codebook.encode import encode_ci
from mvqkd.config import (
    EncodeCiConfig,
    EvaluateConfig,
    ExtractTeacherConfig,
    FitQuantizerConfig,
    PrepareDataConfig,
    Section,
    TrainStudentConfig,
    load_section,
)
from mvqkd.data.prepare import prepare_data
from mvqkd.decode.evaluate import evaluate
from mvqkd.decode.report import WerReport, chunk_ms, chunked_decoder
from mvqkd.decode.scoring import word_errors
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.teacher.extract import extract_teacher
from mvqkd.train.stage import train_student

SPEEDS = [0.9, 1.0, 1.1]
FLOAT32_BYTES = 4
BEAM = "modified_beam_search"
RESAMPLES = 10_000
# Student frames of 40 ms; 0 is the whole utterance.
CHUNKS = [8, 16, 32, 0]
# In the order of the test set, as one string each: a list would take a line a number in the results.
WORDS, ERRORS = "words_of_utterances", "errors_of_utterances"


@dataclass(frozen=True)
class Variant:
    """A student to train: what is learned from, and what differs from the benchmark's base parameters.

    Attributes:
        changes: of the section train-student.
    """

    name: str
    objective: str
    layer: int = 3
    num_codebooks: int = 8
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uses_teacher(self) -> bool:
        return self.objective != "none"


@dataclass(frozen=True)
class Budget:
    """What all students have in common.

    Attributes:
        base: overrides of the section train-student of params.yaml.
        splits: that codebook indexes are made of.
    """

    base: Mapping[str, Any]
    splits: tuple[str, ...]
    teacher: str


@dataclass(frozen=True)
class Shared:
    """Inputs of a student; those that its objective does not need are None."""

    data: Artifact
    embeddings: Artifact | None = None
    quantizer: Artifact | None = None
    indexes: Artifact | None = None

    def paths(self) -> dict[str, Path | None]:
        return {
            "data": self.data.path,
            "teacher_embeddings": self.embeddings.path if self.embeddings else None,
            "quantizer": self.quantizer.path if self.quantizer else None,
            "codebook_indexes": self.indexes.path if self.indexes else None,
        }


def prepare(manifests: Mapping[str, Path], work: Path, *, hold_out: Collection[str] = ()) -> Artifact:
    """One cut manifest of the manifests of all splits.

    Args:
        hold_out: speakers of the manifest ``train`` whose utterances are the split ``test``.
    """
    rows = []
    for split, path in manifests.items():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            split_of_row = "test" if split == "train" and row["speaker"] in hold_out else split
            rows.append(row | {"split": split_of_row, "audio": str((path.parent / row["audio"]).resolve())})
    work.mkdir(parents=True, exist_ok=True)
    merged = work / "manifest.jsonl"
    merged.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = PrepareDataConfig(source="manifest", manifest=str(merged), split_by="speaker")
    return _made(work / "data", config, [], lambda out: prepare_data(config, out=out))


def share(variant: Variant, budget: Budget, data: Artifact, work: Path) -> Shared:
    """Make what a variant's students learn from."""
    if not variant.uses_teacher:
        return Shared(data)
    embeddings = _embeddings(budget.teacher, variant.layer, data, work)
    if variant.objective != "mvq":
        return Shared(data, embeddings)
    quantizer = _quantizer(embeddings, variant.num_codebooks, work)
    encode = EncodeCiConfig(splits=list(budget.splits), speeds=SPEEDS)
    indexes = _made(
        work / quantizer.path.name.replace("quantizer", "indexes"),
        encode,
        [data, embeddings, quantizer],
        lambda out: encode_ci(
            encode, data=data.path, teacher_embeddings=embeddings.path, quantizer=quantizer.path, out=out
        ),
    )
    return Shared(data, embeddings, quantizer, indexes)


def share_live(teacher: str, data: Artifact, work: Path) -> Shared:
    """What a student with that teacher in the loop learns from: nothing is stored."""
    embeddings = _embeddings(teacher, Variant.layer, data, work)
    return Shared(data, embeddings, _quantizer(embeddings, Variant.num_codebooks, work))


def _embeddings(teacher: str, layer: int, data: Artifact, work: Path) -> Artifact:
    config = ExtractTeacherConfig(teacher=teacher, layer=layer, num_frames=60_000)
    name = f"embeddings-{teacher.rpartition('/')[2]}-{layer}"
    return _made(work / name, config, [data], lambda out: extract_teacher(config, data=data.path, out=out))


def _quantizer(embeddings: Artifact, num_codebooks: int, work: Path) -> Artifact:
    config = FitQuantizerConfig(num_codebooks=num_codebooks)
    name = f"{embeddings.path.name.replace('embeddings', 'quantizer')}-{num_codebooks}"
    return _made(
        work / name,
        config,
        [embeddings],
        lambda out: fit_quantizer(config, teacher_embeddings=embeddings.path, out=out),
    )


def run_key(variant: Variant, seed: int, budget: Budget, shared: Shared) -> str:
    """Equal keys: the same student."""
    parents = [item.id for item in (shared.data, shared.embeddings, shared.quantizer, shared.indexes) if item]
    return content_hash([train_config(variant, seed, budget).model_dump(mode="json"), parents])[:16]


def train_and_score(variant: Variant, seed: int, budget: Budget, shared: Shared, work: Path) -> dict[str, Any]:
    """Train and score one student, in a process of its own, whose peak memory is stated; a killed run goes on."""
    config = train_config(variant, seed, budget)
    key = run_key(variant, seed, budget, shared)
    peak_file = work / f"peak-{key}.json"

    def train(out: Path) -> Artifact:
        artifact = train_student(config, **shared.paths(), out=out)
        peak_file.write_text(str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), encoding="utf-8")
        return artifact

    student = _made(work / f"student-{key}", config, [shared.data], train)
    scoring = EvaluateConfig(teacher_wer=False, decoders=["greedy", BEAM, "ctc_greedy"], chunk_frames=CHUNKS)
    report = _made(
        work / f"wer-{key}",
        scoring,
        [shared.data, student],
        lambda out: evaluate(scoring, data=shared.data.path, student=student.path, out=out),
    )
    rows = report.figures["rows"]
    return {
        "key": key,
        "variant": variant.name,
        "objective": variant.objective,
        "teacher": shared.embeddings.facts["teacher_id"] if shared.embeddings else None,
        "layer": variant.layer if variant.uses_teacher else None,
        "num_codebooks": variant.num_codebooks if variant.objective == "mvq" else None,
        "changes": dict(variant.changes),
        "seed": seed,
        "wer": rows["greedy"]["wer"],
        "interval_95": rows["greedy"]["wer_interval_95"],
        "cer": rows["greedy"]["cer"],
        "wer_beam": rows[BEAM]["wer"],
        "wer_ctc": rows["ctc_greedy"]["wer"],
        "wer_in_chunks": {_chunk_name(size): rows[chunked_decoder("greedy", size)]["wer"] for size in CHUNKS},
        "storage_bytes": storage_bytes(variant, shared),
        "steps": student.figures["num_steps"],
        "step_s": student.figures["median_step_s"],
        "epoch_s": student.wall_s / config.num_epochs,
        "peak_bytes": int(peak_file.read_text(encoding="utf-8")) if peak_file.is_file() else None,
        "final_losses": {name: value for name, value in student.figures.items() if name.startswith("final_")},
        "chance_level": student.figures.get("distillation_chance_level"),
        **_counts(report.path),
    }


def _chunk_name(chunk_frames: int) -> str:
    size_ms = chunk_ms(chunk_frames)
    return "whole utterance" if size_ms is None else f"{size_ms} ms"


def storage_bytes(variant: Variant, shared: Shared) -> int:
    """What is kept of the teacher for training at all speeds: indexes as they lie on disk; embeddings as float32."""
    if variant.objective == "none" or shared.embeddings is None:
        return 0
    if shared.indexes is not None:
        return sum(int(entry["size_bytes"]) for entry in shared.indexes.files.values())
    hours = float(shared.data.facts["hours"]["train"]) * sum(1 / speed for speed in SPEEDS)
    rate = float(Fraction(shared.embeddings.facts["rate_hz"]))
    return round(hours * 3600 * rate) * int(shared.embeddings.facts["dim"]) * FLOAT32_BYTES


def compare(rows: list[dict[str, Any]]) -> None:
    """Put into each row the p-values against the none and the l2 student of its seed (see `pooled`)."""
    for row in rows:
        for other in ("none", "l2"):
            rivals = [r for r in rows if r["variant"] == other and r["seed"] == row["seed"] and r is not row]
            found = pooled([row, *rivals], row["variant"], other)
            row[f"p_against_{other}"] = found["p"] if rivals and found else None


def pooled(rows: list[dict[str, Any]], variant: str, other: str) -> dict[str, Any] | None:
    """Two variants over the seeds that both have: errors of an utterance are summed over seeds, utterances resampled.

    Returns:
        Mean WERs, relative reduction with its 95 % interval, and the one-sided p; None without a common seed.
    """
    mine = {row["seed"]: row for row in rows if row["variant"] == variant}
    theirs = {row["seed"]: row for row in rows if row["variant"] == other}
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        return None
    words = _numbers(mine[seeds[0]][WORDS])
    errors = [np.array([_numbers(group[seed][ERRORS]) for seed in seeds]).mean(0) for group in (mine, theirs)]
    drawn = np.random.default_rng(0).multinomial(len(words), np.full(len(words), 1 / len(words)), size=RESAMPLES)
    rates = [(drawn @ count) / (drawn @ words) for count in errors]
    reductions = 1 - rates[0] / rates[1]
    wers = [float(count.sum() / words.sum()) for count in errors]
    return {
        "variant": variant,
        "against": other,
        "seeds": seeds,
        "wer": wers[0],
        "wer_against": wers[1],
        "relative_reduction": 1 - wers[0] / wers[1],
        "interval_95": [float(value) for value in np.percentile(reductions, [2.5, 97.5])],
        "p": float((reductions <= 0).mean()),
    }


def _counts(report_folder: Path) -> dict[str, str]:
    """Words and greedy errors of each test utterance: with them in the results, rows compare where no artifact is."""
    report = WerReport.load(report_folder)
    greedy = report.row("greedy", "torch")
    assert greedy is not None
    counts = [word_errors(u.ref, u.hyp[greedy.name]) for u in report.utterances]
    return {
        WORDS: " ".join(str(count.reference_length) for count in counts),
        ERRORS: " ".join(str(count.errors) for count in counts),
    }


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=np.float64)


def train_config(variant: Variant, seed: int, budget: Budget) -> TrainStudentConfig:
    """Parameters of a student: the demo's, the budget's over them, the variant's over these."""
    overrides = {"objective": variant.objective, **budget.base, **variant.changes, "seed": seed}
    params = Path(__file__).resolve().parent.parent / "params.yaml"
    return load_section(TrainStudentConfig, params, overrides)


def _made(out: Path, config: Section, parents: list[Artifact], make: Callable[[Path], Artifact]) -> Artifact:
    """The artifact at ``out``; made where it is missing or of another config or other parents."""
    if (out / "artifact.json").is_file():
        found = load_artifact(out, verify="size")
        if found.config == config.model_dump(mode="json") and {p.id for p in parents} <= set(found.parents.values()):
            return found
    return make(out)
