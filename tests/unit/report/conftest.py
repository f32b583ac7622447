"""One corpus, quantizer and store for all tests of report and monitor."""

from __future__ import annotations

import pytest
import torch

from tests.unit.report.made_run import Made, make_upstream


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = make_upstream(tmp_path_factory.mktemp("report"))
    torch.set_num_threads(threads)
    return found
