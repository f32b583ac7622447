"""``mvqkd sync``: deliver to MLflow what waits since it could not be reached."""

from __future__ import annotations

import argparse
from pathlib import Path

EXIT_REFUSED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where deliveries wait."""
    parser.add_argument(
        "--artifacts-dir",
        type=Path,
        default=Path("artifacts"),
        help="where all artifacts lie (artifacts); MVQKD_SPOOL_DIR names another place for what waits",
    )


def run(arguments: argparse.Namespace) -> int:
    """Deliver everything once; exit code 1 when MLflow's registry refused something for good."""
    from mvqkd.adapters.sync import sync

    tried = sync(arguments.artifacts_dir)
    for item in tried:
        label = f"decision {item.delivery.decision.short_id} on bundle {item.delivery.bundle.short_id}"
        if item.delivered is not None:
            name = item.delivery.config.model_name
            print(f"sync: {label}: {name} version {item.delivered.version}, run {item.delivered.run_id}")
        else:
            print(f"sync: {label}: refused, and kept: {item.refused}")
    if not tried:
        print("sync: nothing waits")
    return EXIT_REFUSED if any(item.refused for item in tried) else 0
