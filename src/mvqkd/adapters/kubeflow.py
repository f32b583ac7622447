"""What every Kubeflow component does around its stage: section from JSON, ids checked, metadata written.

No Kubeflow here: an artifact of Kubeflow is anything with ``path`` and ``metadata``. Ids travel as parameters beside
the artifacts, so that Kubeflow's cache, which does not look into files, is keyed on content; here they are compared
with the artifact that arrived.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.adapters.live_metrics import live_metrics
from mvqkd.adapters.tracking import PAGE_FILE
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import GateConfig, PromoteConfig, parse_section, section_from_json
from mvqkd.errors import ArtifactMismatchError, ConfigError
from mvqkd.stages import STAGES


class Carrier(Protocol):
    """An artifact as Kubeflow hands it to a component: where its files lie, and what is recorded beside it."""

    path: str
    metadata: dict[str, Any]


class MetricsCarrier(Protocol):
    """Kubeflow's artifact of metrics."""

    def log_metric(self, metric: str, value: float) -> None:
        """Record one number."""


# An artifact and the id that it should have; an empty id is not compared.
Given = tuple[Carrier | None, str]


def run_stage(
    name: str,
    config: str,
    *,
    output: Carrier,
    inputs: Mapping[str, Given] | None = None,
    changes: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    metrics: MetricsCarrier | None = None,
    page: Carrier | None = None,
) -> Artifact:
    """Run one stage as a component.

    Args:
        name: the stage's, a key of ``STAGES``.
        config: its section as JSON.
        output: what Kubeflow will store; gets the artifact's ids, facts and figures as metadata.
        inputs: input name -> artifact and the id that was passed beside it; absent optional ones are None.
        changes: fields of the section that the pipeline sets itself; an empty value leaves the section's.
        extra: arguments of the stage's function beside these.
        metrics: gets the figures that are numbers.
        page: gets a copy of the page that the stage writes for people.
    Raises:
        ArtifactMismatchError: an artifact has another id than was passed beside it.
        MvqkdError: whatever the stage raises.
    """
    stage = STAGES[name]
    section = section_from_json(stage.config_model, config)
    if set_here := {field: value for field, value in (changes or {}).items() if value not in (None, "")}:
        section = parse_section(stage.config_model, section.model_dump(by_alias=True) | set_here, "the pipeline")
    paths = _checked(inputs or {})
    artifact = stage.run(section, out=Path(output.path), inputs=paths, **(extra or {}))
    if page is not None:
        Path(page.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / PAGE_FILE, page.path)
    return recorded(artifact, output, metrics)


def run_training(
    config: str, launch: str, *, output: Carrier, inputs: Mapping[str, Given], metrics: MetricsCarrier
) -> Artifact:
    """``run_stage`` for train-student with a launcher: in this pod, in processes of it, or as a TrainJob of many.

    Args:
        launch: section launch as JSON, see ``mvqkd.adapters.launch.LaunchConfig``.
    """
    stage = STAGES["train-student"]
    section: Any = section_from_json(stage.config_model, config)
    launcher = section_from_json(LaunchConfig, launch)
    paths: dict[str, Any] = dict(_checked(inputs))
    artifact = launch_training(launcher, section, out=Path(output.path), on_row=live_metrics("train-student"), **paths)
    return recorded(artifact, output, metrics)


def shard_ranks(num_shards: int) -> list[int]:
    """Number the parts that encode-ci is divided into, from 0.

    Raises:
        ConfigError: there is none.
    """
    if num_shards < 1:
        raise ConfigError(
            "num_shards of the pipeline",
            expected="1 or more",
            got=str(num_shards),
            next_step="docs/scale.md says how to choose it",
        )
    return list(range(num_shards))


def run_merge(parts: Sequence[Carrier], ids: Sequence[str], *, output: Carrier, metrics: MetricsCarrier) -> Artifact:
    """Join the parts of all ranks of encode-ci, of which each has one of these ids."""
    from mvqkd.codebook.merge import merge

    _require_ids(parts, ids)
    return recorded(merge([Path(part.path) for part in parts], Path(output.path)), output, metrics)


def run_gate(
    config: str,
    promote_config: str,
    *,
    bundle: Given,
    quantizer: Given,
    wer_reports: Sequence[Carrier],
    wer_report_ids: Sequence[str],
    output: Carrier,
    record: Carrier,
    page: Carrier,
) -> Artifact:
    """Judge a bundle by the reports of all test sets, against the champion of the model that promote will register.

    Args:
        promote_config: section promote as JSON, for the name of that model.
        record: gets a copy of the report on the test set that the bundle was scored on: a loop's results can be
            gathered here, but not inside the branches that follow.
        page: gets the decision as an HTML page.
    """
    from mvqkd.adapters.registry import champion_to_beat
    from mvqkd.promotion.page import decision_page
    from mvqkd.promotion.stage import gate

    paths = _checked({"bundle": bundle, "quantizer": quantizer})
    _require_ids(wer_reports, wer_report_ids)
    report, others = _report_of_record(paths["bundle"], [Path(report.path) for report in wer_reports])
    model_name = section_from_json(PromoteConfig, promote_config).model_name
    with champion_to_beat(model_name) as (champion, champions):
        artifact = gate(
            section_from_json(GateConfig, config),
            bundle=paths["bundle"],
            wer_report=report,
            other_reports=[*others, *champions],
            quantizer=paths.get("quantizer"),
            champion=champion,
            out=Path(output.path),
        )
    shutil.copytree(report, record.path)
    recorded(load_artifact(record.path, "wer-report"), record, None)
    Path(page.path).parent.mkdir(parents=True, exist_ok=True)
    Path(page.path).write_text(decision_page(artifact), encoding="utf-8")
    return recorded(artifact, output, None)


def push_indexes(indexes: Given, remote: str) -> str:
    """Push codebook indexes to a DVC remote; returns the content id by which `mvqkd pull` gets them back."""
    from mvqkd.adapters.dvc_identity import push

    return push(_checked({"codebook_indexes": indexes})["codebook_indexes"], remote)


def recorded(artifact: Artifact, output: Carrier, metrics: MetricsCarrier | None) -> Artifact:
    """Leave the artifact's ids, facts and figures with Kubeflow, to find it again by id."""
    output.metadata.update(artifact.metadata)
    if metrics is not None:
        for name, value in artifact.scalar_figures.items():
            metrics.log_metric(name, value)
    return artifact


def _checked(inputs: Mapping[str, Given]) -> dict[str, Path]:
    """Paths of the inputs that are there."""
    present = {name: (carrier, wanted) for name, (carrier, wanted) in inputs.items() if carrier is not None}
    for carrier, wanted in present.values():
        _require_id(Path(carrier.path), wanted)
    return {name: Path(carrier.path) for name, (carrier, _) in present.items()}


def _require_ids(carriers: Sequence[Carrier], ids: Sequence[str]) -> None:
    # Kubeflow gathers both lists from the same loop, but nothing says that it does so in the same order.
    found = sorted(load_artifact(carrier.path, verify="size").id for carrier in carriers)
    if found != sorted(ids):
        raise ArtifactMismatchError(
            f"{len(carriers)} artifacts of a loop",
            expected=f"the ids {', '.join(artifact_id[:12] for artifact_id in sorted(ids))}",
            got=", ".join(artifact_id[:12] for artifact_id in found),
            next_step="run the pipeline again with caching off",
        )


def _require_id(path: Path, wanted: str) -> None:
    artifact = load_artifact(path, verify="size")
    if wanted and artifact.id != wanted:
        raise ArtifactMismatchError(
            f"{artifact.kind} {path}",
            expected=f"id {wanted[:12]}, as the pipeline passed it",
            got=f"id {artifact.short_id}",
            next_step="run the pipeline again with caching off",
        )


def _report_of_record(bundle: Path, reports: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The report on the test set that the bundle was scored on, and those on others."""
    split = load_artifact(bundle, "onnx-bundle").config["split"]
    of_split = {load_artifact(report, "wer-report").config["split"]: report for report in reports}
    if split not in of_split:
        raise ConfigError(
            "test_splits of the pipeline",
            expected=f"{split} among them, the split of section export-onnx: the bundle is scored on it",
            got=", ".join(sorted(of_split)),
            next_step="name it, or set export-onnx.split to one of them",
        )
    return of_split.pop(split), list(of_split.values())
