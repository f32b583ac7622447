"""``mvqkd inspect ARTIFACT``: what it is, what it was made from, how good it is, and whether it is whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvqkd.artifacts import ARTIFACT_FILE, Artifact, load_artifact
from mvqkd.errors import ArtifactError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the artifact's directory and how to show it."""
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="directory that a stage wrote")
    parser.add_argument("--verify", action="store_true", help="read every byte and compare it with its digest")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the description; a damaged artifact is an error."""
    artifact = load_artifact(arguments.artifact, verify="full" if arguments.verify else "size")
    if arguments.verify and artifact.kind == "codebook-indexes":
        from mvqkd.codebook.store import CodebookIndexStore

        CodebookIndexStore(artifact).verify()
    description = describe(artifact) | {"verified": "every byte" if arguments.verify else "sizes"}
    if arguments.json:
        print(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(description)))
    return 0


def describe(artifact: Artifact) -> dict[str, Any]:
    """Everything of artifact.json that a person may ask for, as plain values, and where the parents lie."""
    sizes = [entry["size_bytes"] for entry in artifact.files.values()]
    return {
        "kind": artifact.kind,
        "id": artifact.id,
        "path": str(artifact.path),
        "schema_version": artifact.schema_version,
        "stage": artifact.stage,
        "created_utc": artifact.created_utc,
        "wall_s": artifact.wall_s,
        "usage": dict(artifact.usage),
        "git_sha": artifact.git_sha,
        "num_files": len(sizes),
        "size_bytes": sum(sizes),
        "pictures": [str(artifact.path / name) for name in artifact.files if name.endswith((".png", ".svg"))],
        "findings": _findings(artifact),
        "parents": {
            kind: {"id": parent_id, "found": _find_parent(artifact.path, kind, parent_id)}
            for kind, parent_id in artifact.parents.items()
        },
        "facts": dict(artifact.facts),
        "figures": dict(artifact.figures),
        "config": dict(artifact.config),
        "versions": dict(artifact.versions),
    }


def _findings(artifact: Artifact) -> list[str]:
    """What the report of a quantizer calls attention to."""
    report = artifact.path / "report.json"
    if artifact.kind != "quantizer" or not report.is_file():
        return []
    return list(json.loads(report.read_text(encoding="utf-8")).get("findings", []))


def _find_parent(path: Path, kind: str, parent_id: str) -> str | None:
    """Path of the parent if it lies beside the artifact; else None."""
    for manifest in sorted(path.resolve().parent.glob(f"*/{ARTIFACT_FILE}")):
        try:
            found = load_artifact(manifest.parent, verify="size")
        except ArtifactError:
            continue
        if (found.kind, found.id) == (kind, parent_id):
            return str(path.parent / manifest.parent.name)
    return None


def _lines(description: Mapping[str, Any]) -> Iterator[str]:
    yield f"{description['kind']} {description['id'][:12]} in {description['path']}"
    git_sha = description["git_sha"]
    made = [
        f"by {description['stage']} in {description['wall_s']:.1f} s"
        + (f" with {_bytes(peak)} of memory" if (peak := description["usage"].get("peak_memory_bytes")) else ""),
        f"mvqkd {description['versions'].get('mvqkd', '?')}" + (f" at {git_sha[:12]}" if git_sha else ""),
        description["created_utc"],
    ]
    yield f"  made      {', '.join(made)}"
    yield f"  id        {description['id']}"
    yield f"  size      {_bytes(description['size_bytes'])} in {description['num_files']} files"
    checked = "every byte equals its digest" if description["verified"] == "every byte" else "sizes only; try --verify"
    yield f"  verified  {checked}"
    for picture in description["pictures"]:
        yield f"  picture   {picture}"
    for finding in description["findings"]:
        yield f"  finding   {finding}"
    yield "  parents" if description["parents"] else "  parents   none"
    for kind, parent in description["parents"].items():
        yield f"    {kind:<20} {parent['id'][:12]}  {parent['found'] or 'not beside it'}"
    for title in ("figures", "facts", "config"):
        if description[title]:
            yield f"  {title}"
        for name, value in _flat(description[title]):
            yield f"    {name:<34} {value}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:.5g}"
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{name}", text if len(text) <= 100 else text[:97] + "..."


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
