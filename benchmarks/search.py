"""What the searches cost beside the encoder: microseconds a student frame, one utterance at a time, one thread.

    make demo && OMP_NUM_THREADS=1 python benchmarks/search.py

Reads artifacts/bundle and artifacts/data of the demo, writes benchmarks/results/search.json. Greedy search is measured
with several values of ``_JOINED_AHEAD`` (frames a call of the joiner) and with and without the memory of the predictor;
every variant must find the tokens of the first one. And what hotwords are good for: the words of the test texts that no
training text has, as hotwords. That is the most that a list can give: it holds no word that is not said.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import describe
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.data.features import log_mel
from mvqkd.decode import search
from mvqkd.decode.batching import pad_features
from mvqkd.decode.hotwords import DEFAULT_SCORE, ContextGraph, Hotword
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.scored_split import ScoredSplit, load_scored_split
from mvqkd.decode.scoring import total, word_errors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "search.json"
ROUNDS = 5
AHEAD = (1, 2, 4, 8, 16)


class Forgetful(OnnxTransducer):
    """Computes every context anew, as before the predictor was remembered."""

    def predict(self, contexts: Any) -> Any:
        return self.run("decoder", contexts)[0]


def main() -> int:
    bundle = ROOT / "artifacts" / "bundle"
    data = load_artifact(ROOT / "artifacts" / "data")
    split = load_scored_split(data, "test")
    remembering, forgetful = OnnxTransducer(bundle), Forgetful(bundle)
    features = [log_mel(load_audio(cut)) for cut in split.cuts]
    encoded = [remembering.encode(*pad_features([item])) for item in features]
    words = sorted({word for text in split.refs for word in text.split() if len(word) > 4})[:100]
    graph = ContextGraph([Hotword(tuple(remembering.tokens.encode(word)), DEFAULT_SCORE) for word in words])

    def greedy(model: OnnxTransducer, ahead: int) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            search._JOINED_AHEAD = ahead
            return [search.greedy_search(model, *item)[0] for item in encoded]

        return run

    def beam(size: int, hotwords: ContextGraph) -> Callable[[], list[Any]]:
        return lambda: [
            search.modified_beam_search(remembering, *item, beam_size=size, hotwords=hotwords)[0] for item in encoded
        ]

    variants: dict[str, Callable[[], list[Any]]] = {
        "encoder": lambda: [_encode(remembering, item) for item in features]
    }
    variants |= {f"greedy, {ahead} ahead": greedy(forgetful, ahead) for ahead in AHEAD}
    variants |= {f"greedy, {ahead} ahead, remembering": greedy(remembering, ahead) for ahead in AHEAD}
    variants |= {f"beam of {size}": beam(size, search.NO_HOTWORDS) for size in (2, 4, 8)}
    variants["beam of 4, hotwords"] = beam(4, graph)

    best_s = dict.fromkeys(variants, float("inf"))
    found: dict[str, list[Any]] = {}
    for _ in range(ROUNDS):  # in turns, so that what else the machine does falls on all of them
        for name, variant in variants.items():
            started = time.process_time()
            found[name] = variant()
            best_s[name] = min(best_s[name], time.process_time() - started)
    frames = sum(int(lengths[0]) for _, lengths in encoded)
    reference = [(item.tokens, item.frames) for item in found[f"greedy, {AHEAD[0]} ahead"]]
    rows = []
    for name, seconds in best_s.items():
        row: dict[str, Any] = {"search": name, "us_a_frame": round(seconds / frames * 1e6, 2)}
        if name.startswith("greedy"):
            row["tokens_equal"] = [(item.tokens, item.frames) for item in found[name]] == reference
            assert row["tokens_equal"], name
        rows.append(row)
        print(row)
    results = describe(("numpy", "onnxruntime")) | {
        "utterances": len(encoded),
        "student_frames": frames,
        "tokens": sum(len(tokens) for tokens, _ in reference),
        "bundle": load_artifact(bundle).short_id,
        "rows": rows,
        "hotwords": hotword_rows(remembering, data, split),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def hotword_rows(model: OnnxTransducer, data: Artifact, split: ScoredSplit) -> list[dict[str, Any]]:
    """WER, and how many of the words that training never had were heard, by score a token."""
    known = {word for cut in load_cuts(data, "train") for word in cut.supervisions[0].text.split()}
    unknown = sorted({word for text in split.refs for word in text.split() if word not in known and len(word) > 3})
    audio = [load_audio(cut) for cut in split.cuts]
    rows = []
    for score in (0.0, 1.0, DEFAULT_SCORE, 2.0, 3.0):
        graph = ContextGraph([Hotword(tuple(model.tokens.encode(word)), score) for word in unknown])
        texts = model.transcribe(audio, decoder="modified_beam_search", hotwords=graph)
        pairs = [(ref.split(), text.split()) for ref, text in zip(split.refs, texts, strict=True)]
        errors = total([word_errors(ref, text) for ref, text in zip(split.refs, texts, strict=True)])
        rows.append(
            {
                "score": score,
                "num_hotwords": len(unknown),
                "said": sum(word in unknown for ref, _ in pairs for word in ref),
                "heard": sum(word in unknown and word in text for ref, text in pairs for word in ref),
                "wer": round(errors.rate, 4),
            }
        )
        print(rows[-1])
    return rows


def _encode(model: OnnxTransducer, features: Any) -> Any:
    return model.encode(*pad_features([features]))


if __name__ == "__main__":
    sys.exit(main())
