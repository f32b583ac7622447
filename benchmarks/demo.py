"""The README's table of the demo.

    make demo && python benchmarks/demo.py

copies the figures of artifacts/summary.json, with machine and versions, to benchmarks/results/demo.json and writes
them into README.md; `--render` only does the latter.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from environment import describe
from mvqkd.artifacts import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- demo -->\n.*?<!-- /demo -->\n", re.S)
FIGURES = (
    "wall_s",
    "stages",
    "hours",
    "teacher_id",
    "teacher_layer",
    "teacher_wer",
    "quantizer_relative_error",
    "bytes_per_teacher_frame",
    "compression_ratio",
    "objective",
    "student_parameters",
    "student_wer_onnx",
    "student_cer_onnx",
    "wer_interval_95",
    "wer_by_decoder",
    "test_utterances",
    "test_words",
    "rtf_onnx",
    "bundle_bytes",
)


def render(results: dict[str, Any]) -> str:
    """The README's block, made from the results alone."""
    (row,) = results["rows"]
    machine = results["machine"]
    low, high = row["wer_interval_95"]
    shown = {
        "training speech, test speech": f"{60 * row['hours']['train']:.1f} min, {60 * row['hours']['test']:.1f} min "
        f"({row['test_utterances']} other prompts, {row['test_words']} words)",
        "teacher, its own WER": f"{row['teacher_id'].rpartition('-')[0]} layer {row['teacher_layer']}, "
        f"{100 * row['teacher_wer']:.1f} %",
        "quantizer: relative error on held-out frames": f"{row['quantizer_relative_error']:.3f} at "
        f"{row['bytes_per_teacher_frame']} bytes a frame, 1/{row['compression_ratio']:g} of float32",
        "student": f"{row['student_parameters'] / 1e6:.1f} M parameters, objective {row['objective']}",
        "WER of the ONNX bundle, greedy": f"**{100 * row['student_wer_onnx']:.1f} %** "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}), CER {100 * row['student_cer_onnx']:.1f} %",
        "the same weights as int8; streaming in 320 ms chunks; in 640 ms chunks (torch)": ", ".join(
            f"{100 * row['wer_by_decoder'][name]:.1f} %"
            for name in (
                "onnxruntime-int8/greedy",
                "onnxruntime-streaming/greedy",
                "torch/greedy in 640 ms chunks",
            )
        ),
        "RTF, one thread; size of the bundle: offline, streaming and CTC, float32 and int8": f"{row['rtf_onnx']:.4f}; "
        f"{row['bundle_bytes'] / 1e6:.1f} MB",
        "time after the install": f"{row['wall_s'] / 60:.1f} min, of which training "
        f"{row['stages']['train-student'] / 60:.1f} min",
    }
    lines = [
        "<!-- demo -->",
        f"Measured by `make demo && python benchmarks/demo.py` on {machine['cores']} cores of"
        f" an {machine['processor']}, torch {results['versions']['torch']}, seed 0:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in shown.items()),
        "<!-- /demo -->",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", type=Path, default=ROOT / "artifacts" / "summary.json")
    parser.add_argument("--render", action="store_true", help="only write README.md from the results")
    arguments = parser.parse_args()
    if not arguments.render:
        summary = json.loads(arguments.summary.read_text(encoding="utf-8"))
        results = describe() | {"command": "make demo && python benchmarks/demo.py"}
        write_json(RESULTS, results | {"rows": [{name: summary[name] for name in FIGURES}]})
    block = render(json.loads(RESULTS.read_text(encoding="utf-8")))
    README.write_text(BLOCK.sub(lambda _: block, README.read_text(encoding="utf-8")), encoding="utf-8")
    print("wrote README.md")


if __name__ == "__main__":
    main()
