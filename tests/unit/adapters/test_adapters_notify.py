"""The message about how a run ended reaches a real server, or says why not; addresses stay out of messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.adapters.notify import ATTEMPTS, notify
from mvqkd.errors import NotificationError
from tests.webhook import webhook


@pytest.fixture(autouse=True)
def _no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MVQKD_WEBHOOK_URL", "MVQKD_WEBHOOK_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def told(**changes: str) -> dict[str, object]:
    return notify(
        **{"pipeline_run": "r1", "pipeline": "p", "state": "FAILED", "error": "boom", **changes}, pause_s=0.01
    )


def test_message_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        monkeypatch.setenv("MVQKD_WEBHOOK_URL", server.url)
        payload = told()
    assert server.messages == [payload]
    assert payload == {
        **{"pipeline": "p", "run": "r1", "state": "FAILED", "error": "boom", "figures": {}},
        **dict.fromkeys(["decision", "bundle_id", "git_sha", "mlflow_run"]),
    }
    assert server.tokens == [None]


def test_without_an_address_it_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        told(state="SUCCEEDED", error="")
    assert "p run r1: SUCCEEDED, decision none" in caplog.text
    assert "MVQKD_WEBHOOK_URL is not set" in caplog.text


def test_it_is_tried_again_while_the_server_is_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(503, 429) as server:
        monkeypatch.setenv("MVQKD_WEBHOOK_URL", server.url)
        told()
    assert len(server.messages) == 3


@pytest.mark.parametrize(("statuses", "attempts"), [([500] * 9, ATTEMPTS), ([403], 1), ([404], 1)])
def test_a_webhook_that_refuses_is_an_error(
    statuses: list[int], attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(*statuses) as server:
        monkeypatch.setenv("MVQKD_WEBHOOK_URL", f"{server.url}?token=secret")
        with pytest.raises(NotificationError, match=f"got HTTP status {statuses[0]}") as caught:
            told()
    assert len(server.messages) == attempts
    assert "secret" not in str(caught.value)


def test_nobody_there_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        pass
    monkeypatch.setenv("MVQKD_WEBHOOK_URL", server.url)
    with pytest.raises(NotificationError, match="no answer"):
        told()
    monkeypatch.setenv("MVQKD_WEBHOOK_URL", "file:///etc/hostname")
    with pytest.raises(NotificationError, match="https://"):
        told()


def test_a_broken_registry_does_not_keep_the_message_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with webhook() as server:
        monkeypatch.setenv("MVQKD_WEBHOOK_URL", server.url)
        told()
    assert server.messages[0]["decision"] is None
    assert "no figures to report" in caplog.text
