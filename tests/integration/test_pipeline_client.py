"""`mvqkd pipeline submit` and `diff` against a server that speaks v2beta1: what is asked of it, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvqkd.config import SECTIONS, load_section
from pipelines.client import Connection, connect
from pipelines.compile import compiled
from pipelines.package import package_from_server, package_from_text
from tests.kfp_http import serving
from tests.kfp_server import Fault, KfpServer
from tests.pipeline_cli import Cli, isolate
from tests.small_pipeline import small_package, small_text

ROOT = Path(__file__).parents[2]
UPLOAD = "/pipelines/upload_version"
FIRST_WRITES = ["POST /pipelines", f"POST {UPLOAD}", "POST /experiments", "POST /runs"]


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with serving(KfpServer()) as memory:
        yield memory


@pytest.fixture
def cli(server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    isolate(monkeypatch, tmp_path)
    package = tmp_path / "small.yaml"
    package.write_text(small_text(), encoding="utf-8")
    return Cli(server, package, capsys)


def test_first_submission(cli: Cli, server: KfpServer) -> None:
    result = cli.submit(
        "--set", "num_shards=8", "--set", 'splits=["test","dev"]', "--service-account", "mvqkd-pipeline"
    )
    assert result.code == 0
    assert server.writes() == FIRST_WRITES
    version = small_package().version_name
    assert result.out.splitlines()[0] == f"version {version}: uploaded"
    assert result.err == ""

    (upload,) = server.asked("POST", UPLOAD)
    (pipeline_id,) = server.pipelines
    assert upload.query == {"name": version, "display_name": version, "pipelineid": pipeline_id}
    file_name, content = upload.body
    assert file_name == f"{version}.yaml"
    assert package_from_text(content.decode(), "upload") == small_package()

    (request,) = server.asked("POST", "/runs")
    (version_id,), (experiment_id,), (run_id,) = server.versions, server.experiments, server.runs
    parameters = request.body["runtime_config"].pop("parameters")
    assert request.body == {
        "experiment_id": experiment_id,
        "display_name": server.runs[run_id]["display_name"],
        "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": version_id},
        "runtime_config": {},
        "service_account": "mvqkd-pipeline",
    }
    assert set(parameters) == {"prepare_data_config", "gate_config", "num_shards", "splits"}
    assert (parameters["num_shards"], parameters["splits"]) == (8, ["test", "dev"])
    assert json.loads(parameters["gate_config"]) == SECTIONS["gate"]().model_dump(mode="json")
    assert server.experiments[experiment_id]["display_name"] == "mvqkd"
    assert server.runs[run_id]["display_name"].startswith(f"{version}-")
    assert f"run {run_id}: started as {version}-" in result.out
    assert result.out.splitlines()[-1] == f"{server.url}/#/runs/details/{run_id}"


def test_submitting_again_uploads_and_starts_nothing(cli: Cli, server: KfpServer) -> None:
    first = cli.submit()
    for state in ("PENDING", "RUNNING", "SUCCEEDED"):
        server.set_run(first.run_id(), state=state)
        again = cli.submit()
        assert again.code == 0
        assert again.run_id() == first.run_id()
        assert f": {state} with the same version and arguments; --force starts another" in again.out
        assert "on the server already" in again.out
    assert server.writes() == FIRST_WRITES


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "CANCELING", "SKIPPED"])
def test_a_run_that_came_to_nothing_is_started_anew(cli: Cli, server: KfpServer, state: str) -> None:
    first = cli.submit()
    server.set_run(first.run_id(), state=state)
    again = cli.submit()
    assert again.run_id() != first.run_id()
    assert server.writes() == [*FIRST_WRITES, "POST /runs"]


def test_what_makes_another_run(cli: Cli, server: KfpServer) -> None:
    runs = [
        cli.submit(*arguments).run_id()
        for arguments in (
            (),
            ("--force",),
            ("--set", "num_shards=3"),
            ("--set", 'gate_config={"tolerance": 0.5}'),
            ("--experiment", "another"),
            ("--no-cache",),
        )
    ]
    assert len(set(runs)) == len(runs)
    assert [item["pipeline_version_reference"]["pipeline_version_id"] for item in server.runs.values()].count(
        next(iter(server.versions))
    ) == 5, "--no-cache alone is another version"


def test_no_cache_is_a_version_of_its_own_and_of_all_steps(cli: Cli, server: KfpServer) -> None:
    cli.submit()
    cli.submit("--no-cache")
    cached, uncached = (package_from_server(item["pipeline_spec"], "it") for item in server.versions.values())
    assert cached.same_as(small_package())
    assert uncached.same_as(small_package().without_caching())
    assert not cached.same_as(uncached)


def test_an_archived_run_does_not_count(cli: Cli, server: KfpServer) -> None:
    first = cli.submit()
    server.set_run(first.run_id(), storage_state="ARCHIVED")
    assert cli.submit().run_id() != first.run_id()


def test_the_same_run_is_found_behind_hundreds_of_others(cli: Cli, server: KfpServer) -> None:
    first = cli.submit()
    for number in range(150):
        server.runs[str(number)] = {
            **server.runs[first.run_id()],
            "run_id": str(number),
            "created_at": "2027-01-01T00:00:00Z",
            "state": "FAILED",
        }
    assert cli.submit().run_id() == first.run_id()
    assert [request.query.get("page_token", "") != "" for request in server.asked("GET", "/runs")][-2:] == [False, True]


def test_a_version_with_other_content_is_refused(cli: Cli, server: KfpServer) -> None:
    cli.submit()
    (version,) = server.versions.values()
    tasks = version["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    tasks["prepare"]["cachingOptions"] = {}
    result = cli.submit("--force")
    assert result.code == 1
    assert result.err == (
        f"mvqkd pipeline: version {version['name']} on {server.url}: expected the content that its name is made from, "
        "got another: somebody uploaded it under this name; compare with `mvqkd pipeline diff --server`, then delete "
        "that version\n"
    )
    assert server.writes() == FIRST_WRITES


@pytest.mark.parametrize("path", ["/pipelines", UPLOAD, "/experiments"])
def test_somebody_else_was_faster(cli: Cli, server: KfpServer, path: str) -> None:
    """Two submissions at the same moment: what the other one made is there when ours is refused."""
    body = {"error_message": "exists"} if path == UPLOAD else {"code": 6, "message": "exists", "details": []}
    server.faults.append(Fault("POST", path, status=409, body=json.dumps(body), carried_out=True))
    result = cli.submit()
    assert (result.code, result.err) == (0, "")
    assert server.writes() == FIRST_WRITES
    assert [len(things) for things in (server.pipelines, server.versions, server.experiments, server.runs)] == [1] * 4


def test_an_answer_that_was_lost_does_not_start_two_runs(cli: Cli, server: KfpServer) -> None:
    server.faults.append(Fault("POST", "/runs", delay_s=1.5, carried_out=True))
    lost = cli.submit("--timeout-s", "0.5")
    assert lost.code == 1
    assert "got none within 0.5 s" in lost.err
    assert "(it looks first whether this request was carried out)" in lost.err
    assert server.writes() == FIRST_WRITES, "what changes something is asked once"
    found = cli.submit()
    assert found.code == 0
    assert [found.run_id()] == list(server.runs)


def test_an_archived_experiment_is_refused(cli: Cli, server: KfpServer) -> None:
    cli.submit()
    next(iter(server.experiments.values()))["storage_state"] = "ARCHIVED"
    result = cli.submit("--force")
    assert result.code == 1
    assert "experiment mvqkd: expected one in use, got an archived one" in result.err


def test_wrong_arguments_never_reach_the_server(cli: Cli, server: KfpServer, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("gate:\n  tolerence: 0.1\n")
    typo = cli.submit()
    assert typo.code == 1
    assert "params.yaml, key gate.tolerence: expected a known key (nearest: tolerance)" in typo.err
    (tmp_path / "params.yaml").unlink()
    for arguments, words in (
        (("--set", "num_shard=3"), "nearest: num_shards"),
        (("--set", "num_shards"), "--set num_shards: expected NAME=VALUE, got no ="),
        (("--image", "other:1"), "which take effect when compiling"),
    ):
        refused = cli.submit(*arguments)
        assert refused.code == 1
        assert words in refused.err
    assert server.requests == []


def test_several_users_need_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    with serving(KfpServer(multi_user=True)) as server:
        cli.server = server
        without = cli.submit()
        assert without.code == 1
        assert "expected a namespace, as it serves several users, got none; pass --namespace NAME" in without.err
        assert server.writes() == []
        monkeypatch.setenv("MVQKD_KFP_NAMESPACE", "team-a")
        assert cli.submit().code == 0
        assert cli.schedule("--cron", "0 0 2 * * *").code == 0
        assert cli.schedule("--list").code == 0
        assert [item["namespace"] for item in (*server.pipelines.values(), *server.experiments.values())] == [
            "team-a"
        ] * 2
        assert "team-b" not in cli.submit("--namespace", "team-b").out
        assert {item["namespace"] for item in server.experiments.values()} == {"team-a", "team-b"}


def test_one_user_is_not_sent_a_namespace(cli: Cli, server: KfpServer) -> None:
    assert cli.submit("--namespace", "team-a").code == 0
    assert not any("namespace" in request.query for request in server.requests)


def test_nothing_of_kfps_memory_in_the_home_directory_counts(
    cli: Cli, server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = {"namespace": "elsewhere", "client_authentication_cookie": "session=of-another-server"}
    context = tmp_path / "context.json"
    context.write_text(json.dumps(remembered))
    monkeypatch.setattr("kfp.client.client.Client._LOCAL_KFP_CONTEXT", str(context))
    assert cli.submit().code == 0
    assert not any("cookie" in request.headers for request in server.requests)
    assert json.loads(context.read_text()) == remembered


def test_requests_that_read_are_repeated_and_no_others(server: KfpServer) -> None:
    connection = Connection(server.url, pause_s=0.01, attempts=3)
    client = connect(connection)
    server.requests.clear()
    server.faults += [Fault("GET", "/experiments", times=2, status=503), Fault("POST", "/experiments", status=503)]
    experiments = client.client.experiments
    assert client.ask("it", experiments.experiment_service_list_experiments).experiments is None
    assert len(server.asked("GET", "/experiments")) == 3
    with pytest.raises(Exception, match="HTTP 503"):
        client.ask("it", experiments.experiment_service_create_experiment, experiment={"display_name": "x"})
    assert server.writes() == ["POST /experiments"]
    server.faults += [Fault("GET", "/experiments", times=9, status=404)]
    with pytest.raises(Exception, match="HTTP 404"):
        client.ask("it", experiments.experiment_service_list_experiments)
    assert len(server.asked("GET", "/experiments")) == 4, "a refusal is an answer"


def test_silence_is_repeated_for_what_reads(server: KfpServer) -> None:
    client = connect(Connection(server.url, pause_s=0.01, attempts=2, timeout_s=0.3))
    server.faults.append(Fault("GET", "/experiments", delay_s=1.0))
    assert client.ask("it", client.client.experiments.experiment_service_list_experiments).experiments is None
    assert len(server.asked("GET", "/experiments")) == 2


def test_diff_with_the_server(cli: Cli, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.compile.compiled", lambda image, cluster: small_text(memory="2Gi"))
    nothing = cli("diff", "--server", "--host", server.url, "--exit-code")
    assert (nothing.code, nothing.out) == (3, f"{server.url} has no version of mvqkd-distill yet\n")
    cli.submit()
    newer = small_text(memory="3Gi")
    cli.package.write_text(newer, encoding="utf-8")
    cli.submit()
    result = cli("diff", "--server", "--host", server.url)
    assert result.code == 0
    assert result.out.splitlines() == [
        f"--- {package_from_text(newer, 'it').version_name}",
        f"+++ this checkout ({small_package(memory='2Gi').version_name})",
        "~ step prepare",
        "    resource MemoryLimit: 3Gi -> 2Gi",
    ]
    assert cli("diff", "--server", "--host", server.url, "--exit-code").code == 3


def test_this_checkouts_pipeline_and_params(cli: Cli, server: KfpServer) -> None:
    """The real pipeline, compiled, uploaded, and accepted with the arguments that params.yaml makes."""
    params, image = ROOT / "params.yaml", "mvqkd:dev"
    options = ("--image", image, "--params", str(params), "--set", "num_shards=8")
    result = cli("submit", "--host", server.url, *options)
    assert result.code == 0
    assert f"note: image {image} is no digest: what it runs may change under this version" in result.err
    package = package_from_text(compiled(image), "this checkout")
    (version,) = server.versions.values()
    assert version["name"] == package.version_name
    assert package_from_server(version["pipeline_spec"], "it").same_as(package)
    (run,) = server.runs.values()
    parameters = run["runtime_config"]["parameters"]
    for section, model in SECTIONS.items():
        sent = json.loads(parameters[f"{section.replace('-', '_')}_config"])
        assert sent == load_section(model, params).model_dump(mode="json")
