"""``mvqkd report``: everything about a run on one HTML page that needs no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.cli.params import model_name
from mvqkd.errors import RegistryError

DEFAULT_PAGE = Path("report.html")
_NO_CHAMPION, _REGISTRY = "none", "registry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to report on, what to compare with and where to write."""
    parser.add_argument(
        "-o", "--output", type=Path, default=DEFAULT_PAGE, metavar="FILE", help=f"page to write ({DEFAULT_PAGE})"
    )
    parser.add_argument(
        "--artifacts-dir", type=Path, default=Path("artifacts"), help="where all artifacts lie (artifacts)"
    )
    parser.add_argument(
        "--champion",
        default=_REGISTRY,
        metavar="DIR",
        help="bundle to compare with: a directory, `registry` (default) or `none`; where the bundle here is the"
        " champion, `registry` stands for the one before it",
    )
    parser.add_argument(
        "--wer-report",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a wer-report on a further test set; may be given several times",
    )
    parser.add_argument(
        "--audio",
        type=int,
        default=5,
        metavar="N",
        help="recordings to listen to, of the worst utterances; 0 reads no audio (5)",
    )
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML that names the model (params.yaml)")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        ArtifactError: there is no artifact, or one is damaged.
        RegistryError: the registry cannot be reached.
    """
    from mvqkd.cli.summary import read_artifacts
    from mvqkd.report.page import run_report, write_report

    if arguments.audio < 0:
        arguments.usage_error("--audio must be 0 or more")
    artifacts = {artifact.kind: artifact for artifact in read_artifacts(arguments.artifacts_dir).values()}
    page = run_report(
        artifacts,
        champion=_champion(arguments.champion, arguments.params, artifacts.get("onnx-bundle")),
        other_reports=[load_artifact(path, "wer-report") for path in arguments.wer_report],
        audio=arguments.audio,
    )
    write_report(page, arguments.output)
    print(f"report: {arguments.output} ({len(page.encode()) / 1e6:.2f} MB): open it in a browser, it needs no network")
    return 0


def _champion(choice: str, params: Path | None, bundle: Artifact | None) -> Path | None:
    if choice == _NO_CHAMPION:
        return None
    if choice != _REGISTRY:
        return Path(choice)
    from mvqkd.adapters.registry import champion_bundle, resolve_bundle

    name = model_name(params)
    champion = champion_bundle(name)
    if champion is None or bundle is None or load_artifact(champion, verify="size").id != bundle.id:
        return champion
    try:
        return resolve_bundle(f"models:/{name}@previous")
    except RegistryError:
        return champion  # the first of its name: the page says that it is the champion itself
