"""A bundle that spells tones: real graphs, real searches, and a text that is known beforehand; made without torch.

Four bands of the mel scale are four letters. A tone says its letter once, however long it lasts; silence after a letter
ends the word. What hears such a bundle is onnxruntime, so that tests of programs around it need no stand-in for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.artifacts import Artifact, PartialArtifact, write_json
from mvqkd.data.features import NUM_MELS
from mvqkd.data.tokens import BLANK, SPACE, UNKNOWN, Tokens
from mvqkd.decode.onnx_graphs import OFFLINE, STREAMING, graph_file
from mvqkd.frames import SAMPLE_RATE_HZ, SUBSAMPLING_FACTOR

LETTERS = "ABCD"
SYMBOLS = (BLANK, UNKNOWN, SPACE, *LETTERS)
# One in the middle of each band.
_TONES_HZ = (300.0, 950.0, 2050.0, 4700.0)
_LETTER_S, _EDGE_S, _WORD_GAP_S = 0.12, 0.015, 0.2
_NEVER = -100.0
# Log-mel energy: below that of a tone between its soft edges, above that of rounding to 16 bits.
_QUIET = -8.0
_LAYERS, _LEFT_FRAMES, _DIM, _KERNEL = 1, 4, 2, 3


def make_tone_bundle(out: Path, *, chunk_frames: int = 8) -> Artifact:
    """Write an onnx-bundle with the variants offline and streaming, float32 and (the same graphs) int8.

    Args:
        chunk_frames: student frames a chunk of the streaming encoder.
    """
    partial = PartialArtifact(out, "onnx-bundle", stage="export-onnx", config={}, parents=[])
    graphs = {
        graph_file("encoder"): _offline_encoder(),
        graph_file("encoder", variant=STREAMING): _streaming_encoder(chunk_frames),
    }
    for variant in (OFFLINE, STREAMING):
        graphs[graph_file("decoder", variant=variant)] = _decoder()
        graphs[graph_file("joiner", variant=variant)] = _joiner()
    for name, graph in graphs.items():
        for path in (partial.path / name, (partial.path / name).with_suffix(".int8.onnx")):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(graph.SerializeToString(deterministic=True))
    Tokens(SYMBOLS).save(partial.path)
    write_json(partial.path / "bundle.json", {"text_normalizer": "upper-ascii-1", "token_type": "char"})
    return partial.commit()


def say(text: str, *, amplitude: float = 0.3) -> NDArray[np.float32]:
    """Tones that spell words of A-D, float32 (samples,), 16 kHz; words are a fifth of a second apart."""
    parts = []
    for word in text.split():
        parts += [_tone(_TONES_HZ[LETTERS.index(letter)], amplitude) for letter in word]
        parts.append(silence(_WORD_GAP_S))
    return np.concatenate(parts)


def silence(duration_s: float) -> NDArray[np.float32]:
    """Nothing, float32 (samples,), 16 kHz."""
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ), dtype=np.float32)


def _tone(frequency_hz: float, amplitude: float) -> NDArray[np.float32]:
    time_s = np.arange(round(_LETTER_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    # Soft edges: a click would be heard in every band.
    envelope = np.minimum(1.0, np.minimum(time_s, time_s[::-1]) / _EDGE_S)
    return (amplitude * envelope * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def _encode(helper: Any) -> list[Any]:
    """Nodes from x (N, T, 80) to encoder_out (N, S, V): what each symbol gets from a frame, blank always 0.

    A letter gets the loudest of its band, the space how far the loudest of all lies below ``_QUIET``.
    """
    node = helper.make_node
    return [
        node("Slice", ["x", "start", "end", "time_axis", "step"], ["frames"]),
        node("Reshape", ["frames", "banded"], ["bands"]),
        node("ReduceMax", ["bands", "last_axis"], ["letters"], keepdims=0),
        node("ReduceMax", ["letters", "letter_axis"], ["loudest"]),
        node("Sub", ["quiet", "loudest"], ["space"]),
        node("Mul", ["loudest", "zero"], ["blank"]),
        node("Add", ["blank", "never"], ["unknown"]),
        node("Concat", ["blank", "unknown", "space", "letters"], ["encoder_out"], axis=2),
    ]


def _constants() -> dict[str, NDArray[Any]]:
    reach = SUBSAMPLING_FACTOR - 1
    return {
        **{"start": np.array([reach]), "end": np.array([-reach]), "step": np.array([SUBSAMPLING_FACTOR])},
        **{"time_axis": np.array([1]), "letter_axis": np.array([2]), "last_axis": np.array([3])},
        "banded": np.array([0, 0, len(LETTERS), NUM_MELS // len(LETTERS)]),
        "zero": np.zeros(1, dtype=np.float32),
        "quiet": np.full(1, _QUIET, dtype=np.float32),
        "never": np.full(1, _NEVER, dtype=np.float32),
    }


def _offline_encoder() -> Any:
    from onnx import TensorProto, helper

    node = helper.make_node
    lengths = [
        node("Sub", ["x_lens", "one"], ["less"]),
        node("Div", ["less", "two"], ["halved"]),
        node("Sub", ["halved", "one"], ["halved_less"]),
        node("Div", ["halved_less", "two"], ["encoder_out_lens"]),
    ]
    return _model(
        [*_encode(helper), *lengths],
        inputs=[("x", TensorProto.FLOAT, ["N", "T", NUM_MELS]), ("x_lens", TensorProto.INT64, ["N"])],
        outputs=[
            ("encoder_out", TensorProto.FLOAT, ["N", "S", len(SYMBOLS)]),
            ("encoder_out_lens", TensorProto.INT64, ["N"]),
        ],
        constants=_constants() | {"one": np.array([1]), "two": np.array([2])},
    )


def _streaming_encoder(chunk_frames: int) -> Any:
    from onnx import TensorProto, helper

    shift = SUBSAMPLING_FACTOR * chunk_frames
    caches = {"attention_cache": (_LAYERS, _LEFT_FRAMES), "convolution_cache": (_LAYERS, _KERNEL - 1)}
    return _model(
        [*_encode(helper), *(helper.make_node("Identity", [name], [f"new_{name}"]) for name in caches)],
        inputs=[
            ("x", TensorProto.FLOAT, ["N", shift + SUBSAMPLING_FACTOR - 1, NUM_MELS]),
            *((name, TensorProto.FLOAT, [*shape, "N", _DIM]) for name, shape in caches.items()),
            ("processed_lens", TensorProto.INT64, ["N"]),
        ],
        outputs=[
            ("encoder_out", TensorProto.FLOAT, ["N", chunk_frames, len(SYMBOLS)]),
            *((f"new_{name}", TensorProto.FLOAT, [*shape, "N", _DIM]) for name, shape in caches.items()),
        ],
        constants=_constants(),
        metadata={
            **{"T": shift + SUBSAMPLING_FACTOR - 1, "decode_chunk_len": shift, "num_encoder_layers": _LAYERS},
            **{"encoder_dim": _DIM, "left_context": _LEFT_FRAMES, "cnn_module_kernel": _KERNEL},
        },
    )


def _decoder() -> Any:
    """y (N, 2) -> what the last symbol forbids: itself, and a space that does not follow a letter."""
    from onnx import TensorProto, helper

    forbidden = np.zeros((len(SYMBOLS), len(SYMBOLS)), dtype=np.float32)
    first_letter, space = len(SYMBOLS) - len(LETTERS), SYMBOLS.index(SPACE)
    forbidden[np.arange(first_letter, len(SYMBOLS)), np.arange(first_letter, len(SYMBOLS))] = _NEVER
    forbidden[:first_letter, space] = _NEVER
    return _model(
        [
            helper.make_node("Gather", ["y", "last"], ["symbol"], axis=1),
            helper.make_node("Gather", ["forbidden", "symbol"], ["decoder_out"], axis=0),
        ],
        inputs=[("y", TensorProto.INT64, ["N", 2])],
        outputs=[("decoder_out", TensorProto.FLOAT, ["N", len(SYMBOLS)])],
        constants={"last": np.array(1), "forbidden": forbidden},
        metadata={"context_size": 2, "vocab_size": len(SYMBOLS)},
    )


def _joiner() -> Any:
    from onnx import TensorProto, helper

    row = ["N", len(SYMBOLS)]
    return _model(
        [helper.make_node("Add", ["encoder_out", "decoder_out"], ["logits"])],
        inputs=[("encoder_out", TensorProto.FLOAT, row), ("decoder_out", TensorProto.FLOAT, row)],
        outputs=[("logits", TensorProto.FLOAT, row)],
        constants={},
    )


def _model(
    nodes: list[Any],
    *,
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: dict[str, NDArray[Any]],
    metadata: dict[str, int] | None = None,
) -> Any:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "tones",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.checker.check_model(model, full_check=True)
    return model
