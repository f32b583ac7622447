"""What distillation gives on real speech: students of every objective under one budget, over seeds.

    python benchmarks/distillation.py --train TRAIN.jsonl --test TEST.jsonl --seeds 0 1 2 --jobs 2

trains and scores a student for each variant and seed, each in a process of its own with one thread. `--list` names the
variants: the objectives, and what was tried beside them. A manifest is JSON lines of audio, text and speaker;
`--untranscribed` gives speech without text, for the variants that use it. `--timing` measures a step with and
without distillation, and an epoch with the teacher in the loop. Figures go to benchmarks/results/distillation.json
after every student; what is there with equal inputs is not trained again. `--render` only writes docs/experiments.md.

    python benchmarks/distillation.py --data artifacts/data --name prompts --epochs 14 --jobs 2

does the same on data that prepare-data has made, the demo's for example; figures and page carry the name.

    python benchmarks/distillation.py --train TRAIN.jsonl --hold-out 422 1673 --name tuning --work DIRECTORY

tests on some of the training speakers: parameters are chosen there, and the test set is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import distillation_page
from environment import describe
from mvqkd.artifacts import load_artifact, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
PAGE = ROOT / "docs" / "experiments.md"
WORK = ROOT / "artifacts" / "distillation"
# mvq also with its loss on every second frame: what is paid for it can be chosen.
TIMED = ("none", "l2", "mvq", "mvq, stride 2")
render = distillation_page.render


def main() -> None:
    arguments = _parse()
    ending = f"_{arguments.name}" if arguments.name else ""
    results = RESULTS.with_stem(RESULTS.stem + ending)
    page = PAGE.with_stem(PAGE.stem + ending)
    if not arguments.render:
        _measure(arguments, results)
    page.write_text(render(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}")


def _measure(arguments: argparse.Namespace, results_file: Path) -> None:
    # Here, so that --render needs neither torch nor lhotse.
    from distillation_runs import ERRORS, Budget, prepare, run_key, share, share_live, train_and_score
    from distillation_variants import BASE, VARIANTS

    base = BASE | {"num_epochs": arguments.epochs} | dict(arguments.set)
    if arguments.data:
        data = load_artifact(arguments.data, "cut-manifest")
    else:
        manifests = {"train": arguments.train, "test": arguments.test, "untranscribed": arguments.untranscribed}
        given = {split: path for split, path in manifests.items() if path}
        data = prepare(given, arguments.work, hold_out=set(arguments.hold_out))
    splits = tuple(split for split in data.facts["splits"] if split in ("train", "untranscribed"))
    budget = Budget(base, splits, arguments.teacher)
    known = results_file.is_file()
    results = json.loads(results_file.read_text(encoding="utf-8")) if known else {"rows": [], "timing": None}
    results |= describe() | {
        "data": {
            "id": data.id,
            "source": data.facts["source"],
            "split_by": data.config["split_by"],
            "hours": data.facts["hours"],
            "utterances": data.facts["splits"],
        },
        "budget": dict(base),
    }
    if arguments.note:
        results["note"] = arguments.note
    chosen = [VARIANTS[name] for name in arguments.variants]
    shared = {variant.name: share(variant, budget, data, arguments.work) for variant in chosen}
    if arguments.timing:
        from distillation_timing import measure_timing

        stored = {name: share(VARIANTS[name], budget, data, arguments.work) for name in TIMED}
        live = {teacher: share_live(teacher, data, arguments.work) for teacher in arguments.live_teachers}
        results["timing"] = measure_timing(budget, stored, live)
    # Without its errors, a row of an earlier benchmark cannot be compared.
    results["rows"] = [row for row in results["rows"] if ERRORS in row]
    done = {row["key"]: row for row in results["rows"]}
    runs = []
    for seed, variant in itertools.product(arguments.seeds, chosen):
        if (row := done.get(run_key(variant, seed, budget, shared[variant.name]))) is None:
            runs.append((variant, seed, budget, shared[variant.name], arguments.work))
        else:  # the same student may have had another name
            row |= {"variant": variant.name, "changes": dict(variant.changes)}
    _summarize(results)
    write_json(results_file, results)
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(train_and_score, *run) for run in runs]
        for count, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            results["rows"].append(row)
            _summarize(results)
            write_json(results_file, results)
            left = (time.monotonic() - started) / count * (len(runs) - count)
            print(
                f"{row['variant']}, seed {row['seed']}: WER {100 * row['wer']:.1f} %; {count} of {len(runs)},"
                f" about {left / 60:.0f} min left",
                flush=True,
            )


def _summarize(results: dict[str, Any]) -> None:
    """Put comparisons of all rows and the summary into the results."""
    from distillation_runs import compare, pooled

    rows = results["rows"]
    compare(rows)
    results["pooled"] = [
        found
        for name in dict.fromkeys(row["variant"] for row in rows)
        for other in ("none", "l2", "mvq", "none, 5 epochs")
        if name != other and (found := pooled(rows, name, other))
    ]
    results["summary"] = _summary(results)


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    against_none = {row["variant"]: row for row in results.get("pooled", []) if row["against"] == "none"}
    mvq, more_speech = (against_none.get(name, {}) for name in ("mvq", "mvq, untranscribed"))
    timing = results.get("timing") or {}
    return {
        "relative_wer_reduction_mvq_vs_none": mvq.get("relative_reduction"),
        "p_mvq_vs_none": mvq.get("p"),
        "relative_wer_reduction_mvq_untranscribed_vs_none": more_speech.get("relative_reduction"),
        # Of train-student's defaults, and of the table's smaller model and batches.
        "step_ratio_mvq_vs_none": timing.get("step_ratio_mvq_vs_none"),
        "step_ratio_mvq_vs_none_of_small_model": timing.get("step_ratio_mvq_vs_none_of_small_model"),
        "epoch_ratio_on_the_fly_vs_stored": timing.get("epoch_ratio_on_the_fly_vs_stored"),
    }


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, yaml.safe_load(value)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a cut-manifest of prepare-data, instead of manifests")
    parser.add_argument("--name", default="", help="ending of the names of figures and page")
    parser.add_argument("--note", default="", help="what readers of the page should know of these runs")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument(
        "--hold-out",
        nargs="+",
        default=[],
        metavar="SPEAKER",
        help="speakers of --train to test on in place of --test: to choose parameters without a look at the test set",
    )
    parser.add_argument("--untranscribed", type=Path)
    parser.add_argument("--variants", nargs="*", default=["none", "l1", "l2", "mvq"], metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training speech at three speeds")
    parser.add_argument(
        "--set",
        type=_setting,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of train-student for all students: a budget of their own for other data",
    )
    parser.add_argument("--teacher", default="whisper-tiny.en")
    parser.add_argument("--jobs", type=int, default=1, help="students trained side by side")
    parser.add_argument("--work", type=Path, default=WORK, help="where artifacts are kept")
    parser.add_argument("--timing", action="store_true", help="also measure steps and epochs; needs a quiet machine")
    parser.add_argument(
        "--live-teachers",
        nargs="*",
        default=["whisper-tiny.en"],
        help="measured in the loop; the last is in the summary",
    )
    parser.add_argument("--list", action="store_true", help="only name the variants")
    parser.add_argument("--render", action="store_true", help="only write the docs page from the results")
    arguments = parser.parse_args()
    from distillation_variants import VARIANTS

    if arguments.list:
        for variant in VARIANTS.values():
            print(variant)
        parser.exit()
    if unknown := [name for name in arguments.variants if name not in VARIANTS]:
        parser.error(f"unknown variants {', '.join(unknown)}; --list names them")
    if not (
        arguments.render or arguments.data or (arguments.train and bool(arguments.test) != bool(arguments.hold_out))
    ):
        parser.error("--data, or --train and either --test or --hold-out, are needed, or --render")
    return arguments


if __name__ == "__main__":
    main()
