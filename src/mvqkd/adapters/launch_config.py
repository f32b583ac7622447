"""Where training runs and with how many processes. None of it changes an artifact's id but the number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from mvqkd.config import Section

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kKMGT]i?)?$")]
_SHARED_DIR = "/shared"
# Of an object in Kubernetes.
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
# Set by Kubeflow Trainer, which refuses a job that names them.
RESERVED_VARIABLES = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


class LaunchConfig(Section):
    """How train-student is started; flags ``--launcher`` and ``--launch-FIELD``."""

    section: ClassVar[str] = "launch"

    launcher: Literal["inprocess", "torchrun", "trainjob"] = Field(
        "inprocess",
        description="inprocess: here; torchrun: in processes of this machine, restarted when one dies; trainjob: as a "
        "TrainJob of Kubeflow Trainer, watched from here",
    )
    num_processes: int = Field(1, ge=1, description="ranks a node: its GPUs, or processes that share its cores")
    num_nodes: int = Field(1, ge=1, le=100, description="machines that train together")
    min_nodes: int | None = Field(
        None,
        ge=1,
        description="nodes enough to begin or go on with; steps see fewer batches then. Default: all of them",
    )
    max_restarts: int = Field(
        3, ge=0, description="restarts of the ranks from the last checkpoint when one dies; more hide a real fault"
    )
    grace_s: int = Field(
        60, ge=1, description="seconds from SIGTERM to SIGKILL in which ranks end their step and save the state"
    )
    rdzv_endpoint: str | None = Field(
        None,
        pattern=r"^.+:[0-9]+$",
        description="HOST:PORT where nodes meet, on one of them; default: Kubeflow's PET_MASTER_ADDR, or this machine",
    )
    rdzv_id: str | None = Field(None, description="name of the meeting; default: from parameters and inputs")
    join_timeout_s: int = Field(600, ge=1, description="seconds that a node waits for the others; images take minutes")
    local_address: str | None = Field(
        None, description="this node's address for the others; default: its host name's, which must resolve"
    )
    timeout_s: float = Field(0, ge=0, description="seconds after which training is stopped; 0: none")
    shared_dir: str | None = Field(
        None,
        pattern="^/",
        description="storage that machines share, at the same path. Training keeps its state there, so that a pod that "
        "is started anew goes on, and copies its artifact to `out`. Default: none; /shared for trainjob",
    )

    namespace: DnsName = Field("mvqkd", description="of the TrainJob")
    runtime: DnsName = Field("mvqkd-torch", description="ClusterTrainingRuntime with volume, user and image")
    image: str | None = Field(None, min_length=1, description="of the ranks, by digest; default: the runtime's")
    claim: DnsName | None = Field(None, description="its PersistentVolumeClaim, where it is not the runtime's own")
    service_account: DnsName | None = Field(None, description="of the ranks; default: the runtime's")
    cpu: Quantity | None = Field(None, description="processors a node, set aside and at most; default: the runtime's")
    memory: Quantity | None = Field(None, description="memory a node, set aside and at most; default: the runtime's")
    accelerator: str = Field("nvidia.com/gpu", min_length=1, description="resource name of the accelerators")
    num_accelerators: int = Field(0, ge=0, description="accelerators a node; as many as num_processes")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that nodes must have")
    tolerations: list[dict[str, str]] = Field(default_factory=list, description="taints that are no obstacle")
    env: dict[str, str] = Field(default_factory=dict, description="variables of the ranks; nothing secret")
    env_secrets: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="Secrets as variables of the ranks: {secret: {key: variable}}"
    )
    poll_s: float = Field(10.0, gt=0, description="seconds between looks at the TrainJob")
    patience_s: float = Field(
        600.0, ge=0, description="seconds that the API server may be out of reach; the job runs on meanwhile"
    )
    delete_job: Literal["stopped", "always", "never"] = Field(
        "stopped",
        description="stopped: when this launcher is stopped or times out, and so is the training; always: when it is "
        "over, too, with its logs; never: a launcher started again adopts the job",
    )

    @property
    def shared_path(self) -> Path:
        """The shared storage of a launcher that has one."""
        return Path(self.shared_dir or _SHARED_DIR)

    @model_validator(mode="after")
    def _launcher_starts_them(self) -> LaunchConfig:
        if self.launcher == "inprocess" and self.num_processes * self.num_nodes > 1:
            raise ValueError("launcher torchrun or trainjob for more than one process")
        if self.min_nodes is not None and self.min_nodes > self.num_nodes:
            raise ValueError("min_nodes of num_nodes or fewer")
        names = [*self.env, *(name for variables in self.env_secrets.values() for name in variables.values())]
        if len(set(names)) != len(names):
            raise ValueError("one value for a variable, from env or from one secret")
        if reserved := sorted(set(names) & set(RESERVED_VARIABLES)):
            raise ValueError(f"env without {', '.join(reserved)}, which Kubeflow Trainer sets")
        return self
