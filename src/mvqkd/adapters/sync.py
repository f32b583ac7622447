"""Deliver what waited for MLflow to come back, each once. See spool.py."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mvqkd.adapters import spool
from mvqkd.adapters.delivery import Delivered, deliver
from mvqkd.adapters.lineage_record import Delivery
from mvqkd.adapters.mlflow_store import StoreError
from mvqkd.adapters.promote import commit_promotion, new_promotion
from mvqkd.artifacts import load_artifact
from mvqkd.errors import ArtifactError, RegistryError
from mvqkd.stages import STAGES


@dataclass(frozen=True)
class Synced:
    """A delivery that was tried: what MLflow has of it now, or why it was refused for good."""

    delivery: Delivery
    delivered: Delivered | None
    refused: str | None


def sync(artifacts: Path) -> list[Synced]:
    """Deliver everything that waits, in the order in which it was decided.

    What is delivered is removed, what is refused for good is kept and not tried again. Delivering is safe to repeat, so
    that a process that dies after MLflow took a delivery costs nothing.

    Args:
        artifacts: the directory of artifacts below which ``promote`` keeps deliveries.
    Raises:
        StoreError: the store still fails; what has not been delivered stays.
        RegistryError: another process is at it.
        ArtifactError: a delivery is damaged.
    """
    home = spool.spool_directory(artifacts)
    if not home.is_dir():
        return []
    with spool.locked(home) as alone:
        if not alone:
            raise RegistryError(
                f"spool {home}",
                expected="nobody else who delivers from it",
                got="another `mvqkd sync`",
                next_step="wait for it to end",
            )
        return [_deliver(kept) for kept in spool.waiting(home) if kept.refused is None]


def _deliver(kept: spool.Kept) -> Synced:
    try:
        delivered = deliver(kept.delivery)
    except StoreError:
        raise
    except RegistryError as error:
        spool.refuse(kept, str(error))
        return Synced(kept.delivery, None, str(error))
    if _is_awaited(kept):
        commit_promotion(new_promotion(kept.delivery, kept.out), kept.delivery, delivered)
    shutil.rmtree(kept.directory)
    return Synced(kept.delivery, delivered, None)


def _is_awaited(kept: spool.Kept) -> bool:
    """Whether the promotion artifact still belongs where it was to go: not if the pipeline has gone on since."""
    try:
        decision = load_artifact(kept.out.parent / STAGES["gate"].output_directory, "promotion-decision", verify="size")
    except ArtifactError:
        return kept.out.parent.is_dir() and not kept.out.exists()
    return decision.id == kept.delivery.decision.id
