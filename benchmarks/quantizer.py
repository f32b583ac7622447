"""Our quantizer beside its peers: equal codes, speed, memory, training, error at equal bytes.

    python benchmarks/quantizer.py --manifest TRAIN.jsonl

measures all sections, in hours; `--section encode` only that one; `--quick` everything on toy sizes, into the cache.
The peers are the extra `bench`; one that is not installed is left out. Without a manifest (JSON lines of audio and
speaker) the real embeddings, set b, are left out. Figures go to benchmarks/results/quantizer.json as soon as they are
measured: a run that was ended goes on where it was. `--render` only writes docs/quantizer.md from them.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environment import describe
from quantizer_page import PACKAGES, render

if TYPE_CHECKING:
    from quantizer_data import Recipe
    from quantizer_sections import Scale

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quantizer.json"
PAGE = ROOT / "docs" / "quantizer.md"
CACHE = ROOT / "artifacts" / "quantizer-benchmark"
SECTIONS = ("codes", "encode", "train", "quality")
__all__ = ["render"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--sets", nargs="+", default=["a", "b", "c", "d"], choices=["a", "b", "c", "d"])
    parser.add_argument("--manifest", type=Path, help="JSON lines of audio and speaker, for set b")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where vectors and fits are kept")
    parser.add_argument("--jobs", type=int, default=1, help="fits side by side, in section train, where none is timed")
    parser.add_argument("--quick", action="store_true", help="toy sizes; figures stay in the cache")
    parser.add_argument("--again", action="store_true", help="also measure what the results hold already")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the fits in section train")
    parser.add_argument("--repetitions", type=int, help="of each timing")
    parser.add_argument("--codes-vectors", type=int, help="compared in section codes")
    parser.add_argument("--reference-rates", nargs="+", type=float, help="learning rates of the reference in train")
    parser.add_argument(
        "--our-rates",
        nargs=2,
        type=float,
        action="append",
        metavar=("PHASE_1", "PHASE_2"),
        help="learning rates of ours in train, beside the default ones; may be repeated",
    )
    parser.add_argument(
        "--reference-fit",
        nargs=4,
        metavar=("STEPS_1", "STEPS_2", "BATCH", "RATE"),
        help="how long the reference is fitted in section quality; steps in multiples of 4",
    )
    parser.add_argument("--peers", nargs="*", help="of section quality, by their names in the table")
    arguments = parser.parse_args()
    results, page = RESULTS, PAGE
    if arguments.quick:
        results, page = arguments.cache / "quick.json", arguments.cache / "quick.md"
    failed = [] if arguments.render else measure(arguments, results)
    page.write_text(render(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {page}")
    if failed:
        raise SystemExit(f"not measured: {'; '.join(failed)}. Run the same command again for these alone")


def measure(arguments: argparse.Namespace, path: Path) -> list[str]:
    """Measure the chosen sections into ``path``; returns the units that failed."""
    # Imported here: rendering needs none of it.
    from quantizer_codecs import code_digest
    from quantizer_data import log_facts, prepare
    from quantizer_results import Results
    from quantizer_sections import SECTIONS, Bench
    from quantizer_worker import log_to_stderr

    log_to_stderr()
    scale, recipes = _scale(arguments), _recipes(arguments.quick, arguments.manifest)
    needed = {"codes": "abcd"}
    letters = {name for section in arguments.section for name in needed.get(section, "abc")} & {*arguments.sets}
    if "b" in letters and arguments.manifest is None:
        logging.getLogger("benchmark").warning("set b (real embeddings) left out: pass --manifest TRAIN.jsonl")
    sets = {name: prepare(recipes[name], arguments.cache) for name in sorted(letters) if name in recipes}
    for vectors in sets.values():
        log_facts(vectors)
    run = describe(PACKAGES) | {
        "code": code_digest(),
        "seeds": {"fits": list(scale.seeds)},
        "sets": {name: vectors.facts | {"bytes": vectors.num_bytes} for name, vectors in sets.items()},
    }
    store, bench = Results(path, run), Bench(scale, arguments.cache, sets)
    for section in arguments.section:
        store.measure(section, SECTIONS[section](bench), jobs=arguments.jobs, again=arguments.again)
    return store.failed


def _scale(arguments: argparse.Namespace) -> Scale:
    from quantizer_codecs import Reference
    from quantizer_sections import QUICK, Scale

    scale = QUICK if arguments.quick else Scale()
    changes: dict[str, Any] = {}
    if arguments.reference_fit:
        first, second, batch = map(int, arguments.reference_fit[:3])
        changes["reference"] = Reference(first, second, batch, float(arguments.reference_fit[3]))
    if arguments.peers is not None:
        changes["peers"] = tuple(peer for peer in scale.peers if peer.name in arguments.peers)
    if arguments.our_rates:
        changes["our_rates"] = (*scale.our_rates, *map(tuple, arguments.our_rates))
    named = {"seeds": "seeds", "repetitions": "repetitions", "codes_vectors": "agreement_vectors"}
    named |= {"reference_rates": "reference_rates"}
    for argument, field in named.items():
        value = getattr(arguments, argument)
        if value is not None:
            changes[field] = tuple(value) if isinstance(value, list) else value
    return replace(scale, **changes)


def _recipes(quick: bool, manifest: Path | None) -> dict[str, Recipe]:
    from quantizer_data import Recipe

    sizes = {"a": (512, 8), "c": (1024, 16), "d": (256, 4)}
    num_fit, num_held_out = 60_000, 24_576
    if quick:
        sizes, num_fit, num_held_out = {"a": (32, 4), "c": (64, 8), "d": (16, 2)}, 10_000, 4096
    recipes = {name: Recipe(name, num_bytes, num_fit, num_held_out, dim) for name, (dim, num_bytes) in sizes.items()}
    if manifest is not None:
        recipes["b"] = Recipe("b", 8, num_fit, num_held_out, manifest=manifest)
    return recipes


if __name__ == "__main__":
    main()
