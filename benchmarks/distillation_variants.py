"""The students of the distillation benchmark: the objectives, and single changes to the mvq student."""

from __future__ import annotations

from distillation_runs import Variant

# The demo's student; one thread, so that students can train side by side and equal seeds give equal bits.
# Without the demo's silence and chunks of every size, which are variants here.
BASE = {
    "batch_duration_s": 40,
    "num_threads": 1,
    "codebook_scale": 2.0,
    "silence_s": 0.0,
    "chunk_choices": [],
    "model.chunk_frames": 32,
    "model.left_context_chunks": 4,
}

_ALL = [
    Variant("none", "none"),
    Variant("l1", "l1"),
    Variant("l2", "l2"),
    Variant("mvq", "mvq"),
    Variant("mvq, silence 0.6 s", "mvq", changes={"silence_s": 0.6}),
    Variant("mvq, dynamic chunks", "mvq", changes={"chunk_choices": [8, 16, 32, 0]}),
    Variant("mvq, silence and chunks", "mvq", changes={"silence_s": 0.6, "chunk_choices": [8, 16, 32, 0]}),
    # The chance level of mvq is ln 256 = 5.5, that of l2 is 1: weights that make both equally strong at the start.
    Variant("l2, scale 10", "l2", changes={"codebook_scale": 10.0}),
    Variant("mvq, scale 0.5", "mvq", changes={"codebook_scale": 0.5}),
    Variant("mvq, scale 5", "mvq", changes={"codebook_scale": 5.0}),
    Variant("mvq, teacher layer 2", "mvq", layer=2),
    Variant("mvq, teacher layer 4", "mvq", layer=4),
    Variant("mvq, 4 codebooks", "mvq", num_codebooks=4),
    Variant("mvq, 16 codebooks", "mvq", num_codebooks=16),
    Variant("mvq, student layer 2", "mvq", changes={"distillation_layer": 2}),
    Variant("mvq, student layer 5", "mvq", changes={"distillation_layer": 5}),
    Variant("mvq, stride 2", "mvq", changes={"distillation_stride": 2}),
    # At most all of it once an epoch; as many passes over the transcribed speech, so more steps than without.
    Variant("mvq, stride 2, untranscribed", "mvq", changes={"distillation_stride": 2, "untranscribed_ratio": 1.0}),
    Variant("mvq, untranscribed", "mvq", changes={"untranscribed_ratio": 1.0}),
    # About the steps that untranscribed speech adds, for who has none.
    Variant("none, 5 epochs", "none", changes={"num_epochs": 5}),
]
VARIANTS = {variant.name: variant for variant in _ALL}
