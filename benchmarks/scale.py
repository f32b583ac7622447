"""What 1,000 to 1,000,000 hours of speech take, and into which shards and pods to cut the encode: docs/scale.md.

    python benchmarks/scale.py

measures for two to three minutes what one thread does here (see scale_rates.py), then simulates the sharded encode with
failures (scale_simulation.py) for every cut worth a look (scale_plan.py). It reads the demo's artifacts, or others that
are named. `--no-measure` simulates anew from the rates that are stored, with your own prices and failures:

    python benchmarks/scale.py --no-measure --gpu-hour-price 1.2 --failures-per-hour 0.2 --out my.json

Results go to benchmarks/results/scale.json and into docs/scale.md; `--render` only writes the latter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import scale_assumptions
import scale_page
from environment import describe
from mvqkd.artifacts import write_json
from scale_plan import plan

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale.md"
BLOCK = re.compile(r"<!-- scale -->\n.*?<!-- /scale -->\n", re.S)
PACKAGES = ("torch", "numpy", "numba", "lhotse")
render = scale_page.render


def main() -> None:
    arguments = _parse()
    if not arguments.render:
        write_json(arguments.out, _results(arguments))
    results = json.loads(arguments.out.read_text(encoding="utf-8"))
    block = render(results)
    if arguments.out == RESULTS:
        PAGE.write_text(BLOCK.sub(lambda _: block, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    else:
        print(block)


def _results(arguments: argparse.Namespace) -> dict[str, Any]:
    about = describe(PACKAGES)
    if arguments.measure:
        # Here, so that a simulation from stored rates needs neither torch nor lhotse.
        from scale_rates import measure

        run = about | {"seed": arguments.seed, "load_average": os.getloadavg()[0]}
        root = arguments.artifacts
        rates = {"run": run} | measure(root / "data", root / "teacher-embeddings", root / "quantizer", arguments.seed)
    else:
        rates = json.loads(RESULTS.read_text(encoding="utf-8"))["rates"]
    assumed = scale_assumptions.from_arguments(arguments)
    chosen, beside, failing = plan(rates, assumed, arguments.runs, arguments.seed)
    return about | {
        "seed": arguments.seed,
        "simulated": arguments.runs,
        "assumptions": asdict(assumed),
        "rates": rates,
        "rows": chosen,
        "beside": beside,
        "failing": failing,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="data, teacher-embeddings, quantizer")
    parser.add_argument("--measure", action=argparse.BooleanOptionalAction, default=True, help="or take stored rates")
    parser.add_argument("--runs", type=int, default=2_000, help="simulated runs of each cut (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of shards and of all chance (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results; the page is written from the default alone")
    parser.add_argument("--render", action="store_true", help="only render the results")
    scale_assumptions.add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
