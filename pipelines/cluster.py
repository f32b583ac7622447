"""What a cluster adds to the pipeline: image, resources, where pods may run, secrets, the shared volume, retries.

One YAML file a cluster, given to `mvqkd pipeline compile --cluster FILE`; unknown keys are refused. None of it changes
what a stage computes, hence it is not in params.yaml. ``pipelines/cluster.gpu.yaml`` is an example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field, StringConstraints, field_validator

from components.image import IMAGE
from mvqkd.config import Section, parse_section
from mvqkd.errors import ConfigError

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^[0-9]+(s|m|h)$")]

# What a step of the pipeline is called in ``steps``: its component's name.
STEPS = (
    *("prepare-data", "extract-teacher", "fit-quantizer", "plan-shards", "encode-ci", "merge-ci", "push-ci"),
    *("train-student", "evaluate", "export-onnx", "gate", "promote", "notify"),
)


class Retry(Section):
    """Repetitions of a step that failed, with growing pauses."""

    section: ClassVar[str] = "cluster.steps.retry"

    attempts: int = Field(3, ge=0, le=10, description="repetitions; 0: none")
    backoff: Duration = Field("60s", description="pause before the first; a node pool needs about that to grow")
    factor: float = Field(2.0, ge=1, description="by which the pause grows")
    max_backoff: Duration = Field("15m", description="longest pause")


class Toleration(Section):
    """Of a taint, as Kubernetes has it."""

    section: ClassVar[str] = "cluster.steps.tolerations"

    key: str = Field(min_length=1, description="the taint's key")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Equal compares the value as well")
    value: str | None = Field(None, description="the taint's value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        "NoSchedule", description="the taint's effect"
    )


class StepSettings(Section):
    """Where a step runs and with what. A field that is not given keeps its default for that step."""

    section: ClassVar[str] = "cluster.steps"

    cpu_request: Quantity = Field("500m", description="processors that the scheduler sets aside")
    cpu_limit: Quantity = Field("2", description="processors at most")
    memory_request: Quantity = Field("1Gi", description="memory that the scheduler sets aside")
    memory_limit: Quantity = Field("4Gi", description="memory beyond which the pod is ended")
    accelerator: str | None = Field(None, description="resource name, nvidia.com/gpu; None: none")
    accelerator_count: int = Field(1, ge=1, le=16, description="how many of them")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that the node must have")
    tolerations: list[Toleration] = Field(default_factory=list, description="taints that are no obstacle")
    timeout: Duration | None = Field(None, description="after which the pod is ended; None: never")
    retry: Retry | None = Field(None, description="None: a repetition would fail alike")


class SecretEnvironment(Section):
    """Keys of a Secret as environment variables; the Secret is made by others and never lies in git."""

    section: ClassVar[str] = "cluster.secrets"

    name: str = Field(min_length=1, description="name of the Secret")
    keys: dict[str, str] = Field(min_length=1, description="its key -> environment variable")
    steps: list[str] = Field(min_length=1, description="steps that see it, no others")
    optional: bool = Field(False, description="start the pod also where the Secret does not exist")

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: list[str]) -> list[str]:
        return _known(steps)


class SharedVolume(Section):
    """A ReadWriteMany claim, for corpora, teachers' weights and the checkpoints of TrainJobs."""

    section: ClassVar[str] = "cluster.shared"

    claim: str = Field("mvqkd-shared", min_length=1, description="name of the PersistentVolumeClaim")
    mount_path: str = Field("/shared", pattern="^/", description="where pods see it")
    steps: list[str] = Field(
        ["prepare-data", "extract-teacher", "encode-ci", "train-student", "evaluate", "export-onnx"],
        description="steps that mount it: those that read audio or weights, or share checkpoints",
    )

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: list[str]) -> list[str]:
        return _known(steps)


def _known(steps: list[str]) -> list[str]:
    if unknown := sorted(set(steps) - set(STEPS)):
        raise ValueError(f"steps among {', '.join(STEPS)}; {', '.join(unknown)} is none")
    return steps


# Preempted pods and full nodes are everyday: whatever runs long, or talks to a server, is repeated. The other steps
# are short and depend on their inputs alone: what fails there would fail again.
_PREEMPTED = Retry()
_SERVER = Retry(attempts=4, backoff="15s", max_backoff="5m")
_SMALL = StepSettings(cpu_request="100m", cpu_limit="1", memory_request="256Mi", memory_limit="1Gi")
_STEPS: dict[str, StepSettings] = {
    "prepare-data": StepSettings(memory_limit="8Gi", retry=_SERVER),
    "extract-teacher": StepSettings(memory_request="2Gi", memory_limit="8Gi", retry=_PREEMPTED),
    "fit-quantizer": StepSettings(cpu_request="1", memory_limit="8Gi"),
    "plan-shards": _SMALL,
    "encode-ci": StepSettings(cpu_request="1", memory_request="2Gi", memory_limit="8Gi", retry=_PREEMPTED),
    "merge-ci": StepSettings(),
    "push-ci": StepSettings(retry=_SERVER),
    "train-student": StepSettings(
        cpu_request="2", cpu_limit="4", memory_request="4Gi", memory_limit="16Gi", retry=_PREEMPTED
    ),
    "evaluate": StepSettings(cpu_request="1"),
    "export-onnx": StepSettings(cpu_request="1"),
    "gate": StepSettings(retry=_SERVER),
    "promote": StepSettings(retry=_SERVER),
    "notify": StepSettings(
        cpu_request="100m", cpu_limit="1", memory_request="256Mi", memory_limit="1Gi", retry=_SERVER
    ),
}
_SECRETS = [
    SecretEnvironment(
        name="mvqkd-mlflow-client",
        keys={
            "MLFLOW_TRACKING_USERNAME": "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
        },
        steps=["train-student", "gate", "promote", "notify"],
        optional=True,
    ),
    SecretEnvironment(
        name="mvqkd-dvc-remote",
        keys={name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        steps=["push-ci"],
        optional=True,
    ),
    SecretEnvironment(
        name="mvqkd-webhook",
        keys={"url": "MVQKD_WEBHOOK_URL", "token": "MVQKD_WEBHOOK_TOKEN"},
        steps=["notify"],
        optional=True,
    ),
]


class ClusterConfig(Section):
    """A cluster's settings. The defaults need no volume and no accelerator."""

    section: ClassVar[str] = "cluster"

    image: str = Field(IMAGE, min_length=1, description="of every step; by digest, so that it never moves")
    image_pull_secrets: list[str] = Field(default_factory=list, description="Secrets with a registry's login")
    environment: dict[str, str] = Field(
        {"MLFLOW_TRACKING_URI": "http://mvqkd-mlflow.mvqkd.svc:5000"},
        description="variables of every step; nothing secret",
    )
    secrets: list[SecretEnvironment] = Field(_SECRETS, description="Secrets as variables of named steps")
    shared: SharedVolume | None = Field(None, description="volume that steps share; None: none")
    parallel_shards: int = Field(8, ge=1, description="shards of encode-ci that run at a time")
    user: int = Field(10001, ge=1, description="uid and gid of all processes, the image's own; never root")
    steps: dict[str, StepSettings] = Field(default_factory=dict, description="settings of single steps")

    @field_validator("steps", mode="before")
    @classmethod
    def _over_the_defaults(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        _known(list(given))
        changes = {name: value.model_dump() if isinstance(value, Section) else value for name, value in given.items()}
        return {name: {**settings.model_dump(), **(changes.get(name) or {})} for name, settings in _STEPS.items()}


def load_cluster(path: Path | None) -> ClusterConfig:
    """Read a cluster's settings; None gives the defaults.

    Raises:
        ConfigError: the file cannot be read or has unknown or impossible values, naming the field.
    """
    if path is None:
        return ClusterConfig()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cluster file {path}",
            expected="a readable YAML file",
            got=str(error),
            next_step="start from pipelines/cluster.gpu.yaml",
        ) from error
    return parse_section(ClusterConfig, values, str(path))
