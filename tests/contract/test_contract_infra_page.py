"""docs/kubernetes.md: its commands are commands, its manifests fit, its labels and paths are the real ones."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra import validate
from infra.check import check
from infra.objects import Object
from infra.render import kubectl, render
from mvqkd.cli.main import build_parser
from pipelines.arguments import arguments_of
from pipelines.package import package_from_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPTS = [text for language, text in BLOCKS if not language]
# What the page has the reader put into the environment.
VARIABLES = {"IMAGE": f"r.example/mvqkd@sha256:{'a' * 64}", "REGISTRY": "r.example", "OVERLAY": "infra/overlays/prod"}


def _commands(program: str) -> list[list[str]]:
    """Commands of the page that begin with a program, their variables filled in."""
    joined = "\n".join(SCRIPTS).replace("\\\n", " ")
    for name, value in VARIABLES.items():
        joined = joined.replace(f"${name}", value)
    return [shlex.split(line) for line in joined.splitlines() if line.split(" ")[0] == program]


def test_scripts_are_what_a_shell_reads() -> None:
    assert len(SCRIPTS) >= 15
    for script in SCRIPTS:
        result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert result.stderr == ""


@pytest.mark.parametrize("command", _commands("mvqkd"), ids=" ".join)
def test_command_of_mvqkd_is_one(command: list[str]) -> None:
    parsed = build_parser(command[1]).parse_args(command[1:])
    assert callable(parsed.run)
    if settings := getattr(parsed, "set", None):
        package = package_from_file(ROOT / "pipelines" / "distill.golden.yaml")
        values = dict(setting.split("=", 1) for setting in settings)
        assert set(values) <= set(arguments_of(package, ROOT / "params.yaml", values))


def test_page_goes_through_every_action_of_the_pipeline() -> None:
    actions = {command[2] for command in _commands("mvqkd") if command[1] == "pipeline"}
    assert actions == {"compile", "diff", "submit", "schedule", "status"}


def test_modules_that_the_page_runs_take_these_flags() -> None:
    commands = _commands("python")
    modules = {command[2] for command in commands if command[1] == "-m"}
    assert modules == {"infra.check", "infra.images"}
    for command in commands:
        if command[1] == "-m":
            shown = subprocess.run([sys.executable, *command[1:3], "--help"], cwd=ROOT, capture_output=True, text=True)
            flags = {word for word in command if word.startswith("--")}
            assert flags <= set(re.findall(r"--\w+", shown.stdout)), command


def test_kubectl_takes_the_secrets(tmp_path: Path) -> None:
    (preparing,) = (script for script in SCRIPTS if "mkdir secrets" in script)
    (making,) = (script for script in SCRIPTS if "create secret generic mvqkd-mlflow-server" in script)
    # Nothing is applied: there is no cluster. The contents are checked on the way out.
    preparing = "\n".join(line for line in preparing.splitlines() if not line.startswith("kubectl"))
    making = re.sub(r"(create secret generic)", r"\1 --dry-run=client -o yaml", making)
    making = making.replace("kubectl", "echo ---; kubectl")
    path = f"{Path(kubectl()).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{preparing}\n{making}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "KUBECONFIG": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=True,
    )
    secrets = [manifest for manifest in yaml.safe_load_all(result.stdout) if manifest]
    assert [secret["metadata"]["name"] for secret in secrets] == [
        *("mvqkd-mlflow-server", "mvqkd-mlflow-client", "mvqkd-mlflow-reader", "mvqkd-dvc-remote", "mvqkd-webhook")
    ]
    for secret in secrets:
        assert all(secret["data"].values()), "no key is empty"
        assert validate.problems([Object("page", secret)]) == []
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "secrets").iterdir())


def test_pod_of_the_page_keeps_the_rules() -> None:
    (text,) = (text for language, text in BLOCKS if language == "yaml" and "kind: Pod" in text)
    pod = Object("docs/kubernetes.md", yaml.safe_load(text))
    others = [obj for obj in render(ROOT / "infra" / "base") if obj.kind == "NetworkPolicy"]
    assert check([pod, *others]) == []
    assert pod.spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mvqkd-shared"


def test_patch_of_the_page_narrows_what_it_says(tmp_path: Path) -> None:
    (text,) = (text for language, text in BLOCKS if language == "yaml" and "op: replace" in text)
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=shutil.ignore_patterns("__pycache__"))
    overlay = tmp_path / "infra" / "overlays" / "prod"
    (overlay / "networks.yaml").write_text(text)
    said = "".join(line[2:] + "\n" for line in text.splitlines() if line.startswith("#   "))
    assert "target:" in said
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    kustomization["patches"] += yaml.safe_load(said)
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = render(overlay)
    (policy,) = (obj for obj in objects if (obj.kind, obj.name) == ("NetworkPolicy", "pipeline"))
    open_to_all = [rule for rule in policy.spec["egress"] if "0.0.0.0/0" in str(rule)]
    assert open_to_all == [], "the patch is of the rule that was open"
    assert [problem for problem in check(objects) if problem.kind == "NetworkPolicy"] == []


def _paths() -> Iterator[str]:
    yield from re.findall(r"(?<![\w/])(?:infra|pipelines)/[\w./-]*\w", PAGE)
    for target in re.findall(r"\]\((\w+\.md)\)", PAGE):
        yield f"docs/{target}"
    for file in re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE):
        yield f"infra/overlays/prod/{file}"


@pytest.mark.parametrize("path", sorted(set(_paths())))
def test_path_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_labels_and_accounts_are_those_of_the_manifests() -> None:
    text = yaml.safe_dump_all([dict(obj.manifest) for obj in render(ROOT / "infra" / "overlays" / "prod")])
    for label in re.findall(r"label namespace \S+ (\S+)=true", PAGE):
        assert f"{label}: 'true'" in text
    (accounts,) = re.findall(r"for account in (.*); do", PAGE)
    for account in [*accounts.split(), "mvqkd-submit"]:
        assert f"name: {account}\n" in text
    for name in re.findall(r"(?:deployment|service)/([\w-]+)", PAGE):
        assert name in ("ml-pipeline",) or f"name: {name}\n" in text
    port_forwards = dict(re.findall(r"port-forward service/(mvqkd-\w+) (\d+)", PAGE))
    assert port_forwards == {"mvqkd-mlflow": "5000", "mvqkd-serve": "8470"}
