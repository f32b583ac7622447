"""Fixtures that several tests of adapters share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainjob_cluster import Cluster
from tests.trainjob_stand import Stand, complete


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with Cluster(complete).running() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        yield Stand(cluster, tmp_path)
