"""Tell a webhook how a pipeline run ended: its state, the decision and the figures, or what failed.

The last step of a pipeline knows only the state of the whole. Decision and figures are looked up in MLflow, in the run
that ``promote`` tagged with the pipeline's; a run that failed before has none.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from mvqkd.adapters.mlflow_store import connect, registry_errors, registry_is_missing
from mvqkd.adapters.registry_text import quoted
from mvqkd.adapters.run_records import TAG_BUNDLE, TAG_GIT_SHA
from mvqkd.adapters.tracking import TAG_PIPELINE_RUN
from mvqkd.errors import NotificationError, RegistryError

_LOG = logging.getLogger(__name__)

ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 20.0
_DECISION_TAGS = {"decision": "mvqkd.decision", "bundle_id": TAG_BUNDLE, "git_sha": TAG_GIT_SHA}


def notify(
    *, pipeline_run: str, pipeline: str, state: str, error: str = "", pause_s: float = FIRST_PAUSE_S
) -> dict[str, Any]:
    """Post the outcome as JSON to the webhook that the environment names; without one, only log it.

    MVQKD_WEBHOOK_URL is the address, MVQKD_WEBHOOK_TOKEN a bearer token for it.

    Args:
        pipeline_run, pipeline: the orchestrator's id of the run, and the pipeline's name.
        state: SUCCEEDED, FAILED or CANCELLED.
        error: what went wrong, of a run that failed.
        pause_s: before the second attempt; doubles with each.
    Returns:
        What was posted.
    Raises:
        NotificationError: the webhook refused, or did not answer in several attempts.
    """
    payload = {
        "pipeline": pipeline,
        "run": pipeline_run,
        "state": state,
        "error": error or None,
        **_outcome(pipeline_run),
    }
    url = os.environ.get("MVQKD_WEBHOOK_URL")
    _LOG.info("%s run %s: %s, decision %s", pipeline, pipeline_run, state, payload["decision"] or "none")
    if url:
        _post(url, os.environ.get("MVQKD_WEBHOOK_TOKEN"), payload, pause_s)
    else:
        _LOG.info("no webhook: MVQKD_WEBHOOK_URL is not set")
    return payload


def _outcome(pipeline_run: str) -> dict[str, Any]:
    """Decision, figures and MLflow run of a pipeline run; all None where promote did not get that far."""
    nothing: dict[str, Any] = {"decision": None, "bundle_id": None, "git_sha": None, "mlflow_run": None, "figures": {}}
    try:
        if registry_is_missing():
            return nothing
        client = connect()
        with registry_errors("looking up the run to report"):
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            found = client.search_runs(
                experiments, f"tags.`{TAG_PIPELINE_RUN}` = {quoted(pipeline_run)}", max_results=1
            )
    except RegistryError as error:
        # The message must go out above all when something is broken.
        _LOG.warning("no figures to report: %s", error)
        return nothing
    if not found:
        return nothing
    (run,) = found
    return {
        **{name: run.data.tags.get(tag) for name, tag in _DECISION_TAGS.items()},
        "mlflow_run": run.info.run_id,
        "figures": dict(run.data.metrics),
    }


def _post(url: str, token: str | None, payload: Mapping[str, Any], pause_s: float) -> None:
    if not url.startswith(("https://", "http://")):
        raise _not_sent(
            "an address that begins with https:// or http://", "another", "mend the secret with the address"
        )
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, json.dumps(payload, default=str).encode(), headers, method="POST")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            got, final = f"HTTP status {error.code}", error.code < 500 and error.code not in (408, 429)
        except (OSError, ValueError) as error:
            got, final = f"no answer ({getattr(error, 'reason', error)})", False
        if final or attempt == ATTEMPTS:
            raise _not_sent(
                f"an answer of 2xx within {ATTEMPTS} attempts", got, "check address, token and network policy"
            )
        _LOG.warning("webhook: %s, attempt %d of %d", got, attempt, ATTEMPTS)
        time.sleep(pause_s * 2 ** (attempt - 1))


def _not_sent(expected: str, got: str, next_step: str) -> NotificationError:
    # Addresses of webhooks often carry the secret themselves, so none is named.
    return NotificationError("webhook of MVQKD_WEBHOOK_URL", expected=expected, got=got, next_step=next_step)
