"""Start train-student: in this process, in several under torch's elastic launcher, or on a cluster as a TrainJob.

All three run the same stage with the same section and give the same artifact. Its id depends on the number of ranks,
because a step of more ranks sees more batches, but not on what started them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mvqkd.adapters.launch_command import trained
from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.adapters.launch_storage import copy_artifact, place_of
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.stages import STAGES

__all__ = ["LaunchConfig", "launch_training"]

OnRow = Callable[[Mapping[str, float]], None]


def launch_training(
    launch: LaunchConfig,
    config: TrainStudentConfig,
    *,
    data: Path,
    out: Path,
    quantizer: Path | None = None,
    codebook_indexes: Path | None = None,
    teacher_embeddings: Path | None = None,
    on_row: OnRow | None = None,
) -> Artifact:
    """Train a student as ``launch`` says; what a stopped run with the same inputs has saved is gone on with.

    Args:
        data, quantizer, codebook_indexes, teacher_embeddings, out: as for ``mvqkd.train.stage.train_student``.
        on_row: is given every row of the training history by the launcher inprocess. The others' rank 0 reports from
            its own process, where the command line does so.
    Returns:
        The artifact at ``out``, checked.
    Raises:
        ConfigError, ArtifactError, TrainingError: whatever the stage raises, or the first rank that failed.
        TrainingStopped: SIGTERM came; the state is saved where ranks had time to.
        MissingDependencyError: launcher trainjob without the Kubernetes client.
    """
    named = {
        "data": data,
        "quantizer": quantizer,
        "codebook_indexes": codebook_indexes,
        "teacher_embeddings": teacher_embeddings,
    }
    inputs = {name: path for name, path in named.items() if path is not None}
    if launch.launcher == "trainjob":
        from mvqkd.adapters.trainjob import train_with_trainjob

        return train_with_trainjob(launch, config, inputs, out)
    if launch.shared_dir is None:
        return _train(launch, config, inputs, out, on_row)
    artifacts = [load_artifact(path, verify="size") for path in inputs.values()]
    place = place_of(launch.shared_path, config, artifacts)
    if not place.is_done:
        _train(launch, config, inputs, place.out, on_row)
    return copy_artifact(trained(place.out, config, by=launch.launcher), out)


def _train(
    launch: LaunchConfig, config: TrainStudentConfig, inputs: Mapping[str, Path], out: Path, on_row: OnRow | None
) -> Artifact:
    if launch.launcher == "inprocess":
        return STAGES[config.section].run(config, out=out, inputs=dict(inputs), on_row=on_row)
    from mvqkd.adapters.launch_torchrun import train_with_torchrun

    return train_with_torchrun(launch, config, inputs, out)
