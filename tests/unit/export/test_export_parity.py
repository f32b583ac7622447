"""Parity: it holds for what was exported, and every kind of fault is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError, ExportParityError
from mvqkd.export.parity import ParityCase, check_parity, encoder_inputs
from mvqkd.export.scoring import Recognizers

if TYPE_CHECKING:
    from conftest import Exported

Floats = NDArray[np.float32]


def scale_initializer(needle: str, factor: float) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        (found,) = [item for item in graph.graph.initializer if needle in item.name]
        found.CopyFrom(onnx.numpy_helper.from_array(factor * onnx.numpy_helper.to_array(found), found.name))

    return change


def parity(exported: Exported, bundle: Path, features: list[Floats], max_difference: float = 1e-3) -> list[ParityCase]:
    opened = Recognizers.open(bundle)
    return check_parity(
        exported.reference, opened.offline, opened.streaming, opened.ctc, features, max_difference=max_difference
    )


def test_graphs_compute_what_the_student_computes(exported: Exported, features: list[Floats]) -> None:
    cases = parity(exported, exported.bundle, features, 1e-4)
    assert {case.part for case in cases} == {"encoder", "decoder", "joiner", "streaming encoder", "ctc model"}
    inputs = {case.input for case in cases}
    assert {"batch of unequal lengths", "one second of silence", "clip of 100 ms", "random contexts"} < inputs
    assert "two streams, one a chunk ahead" in inputs
    assert len(cases) == len({(case.part, case.input) for case in cases}) >= 30


def test_inputs_hold_every_remainder_of_the_subsampling(features: list[Floats]) -> None:
    lengths = [len(batch[0]) for name, batch in encoder_inputs(features).items() if name.startswith("first")]
    assert {length % 4 for length in lengths} == {0, 1, 2, 3}
    assert min(lengths) == 7


@pytest.mark.parametrize(
    ("part", "graph", "needle"),
    [
        ("encoder", "offline/encoder", "feature_std"),
        ("decoder", "offline/decoder", "embedding"),
        ("joiner", "offline/joiner", "output.bias"),
        ("streaming encoder", "streaming/encoder", "feature_std"),
        ("ctc model", "ctc/model", "ctc_head.bias"),
    ],
)
def test_a_graph_that_computes_something_else_is_named(
    exported: Exported, altered: Callable[..., Path], features: list[Floats], part: str, graph: str, needle: str
) -> None:
    bundle = altered(f"{graph}.onnx", scale_initializer(needle, 1.01))
    with pytest.raises(ExportParityError, match=rf"^{part}, input .*differ by at most 0\.001, got") as caught:
        parity(exported, bundle, features)
    assert "\n" not in str(caught.value)


def test_a_streaming_encoder_that_forgets_is_found(
    exported: Exported, altered: Callable[..., Path], features: list[Floats]
) -> None:
    def forget(graph: Any) -> None:
        zero = onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero")
        graph.graph.initializer.append(zero)
        (producer,) = [node for node in graph.graph.node if "new_convolution_cache" in node.output]
        producer.output[list(producer.output).index("new_convolution_cache")] = "remembered"
        graph.graph.node.append(onnx.helper.make_node("Mul", ["remembered", "zero"], ["new_convolution_cache"]))

    with pytest.raises(ExportParityError, match=r"^streaming encoder, input "):
        parity(exported, altered("streaming/encoder.onnx", forget), features)


def test_not_a_number_is_no_parity(exported: Exported, altered: Callable[..., Path], features: list[Floats]) -> None:
    bundle = altered("offline/joiner.onnx", scale_initializer("output.bias", float("nan")))
    with pytest.raises(ExportParityError, match=r"joiner.*got inf"):
        parity(exported, bundle, features)


def test_other_frame_counts_are_no_parity(
    exported: Exported, altered: Callable[..., Path], features: list[Floats]
) -> None:
    def one_frame_less(graph: Any) -> None:
        (producer,) = [node for node in graph.graph.node if "encoder_out_lens" in node.output]
        producer.output[list(producer.output).index("encoder_out_lens")] = "lens_before"
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, dtype=np.int64), "one"))
        graph.graph.node.append(onnx.helper.make_node("Sub", ["lens_before", "one"], ["encoder_out_lens"]))

    bundle = altered("offline/encoder.onnx", one_frame_less)
    with pytest.raises(ExportParityError, match="student frames in"):
        parity(exported, bundle, features)


def test_padding_and_batch_mates_change_nothing(exported: Exported, features: list[Floats]) -> None:
    runtime = OnnxTransducer(exported.bundle)
    together, frames = runtime.encode(*pad_features(features))
    for row, count, item in zip(together, frames.tolist(), features, strict=True):
        alone, (alone_count,) = runtime.encode(*pad_features([item]))
        assert alone_count == count
        np.testing.assert_allclose(row[:count], alone[0, :count], atol=2e-5)


@pytest.mark.parametrize("num_frames", [0, 1, 6])
def test_too_short_for_a_frame_gives_no_frame(exported: Exported, features: list[Floats], num_frames: int) -> None:
    for runtime in (exported.reference, OnnxTransducer(exported.bundle)):
        encoded, frames = runtime.encode(*pad_features([features[0][:num_frames], features[0]]))
        assert frames[0] == 0
        assert frames[1] > 0
        assert np.isfinite(encoded[1, : frames[1]]).all()


def test_transcribe_cuts_long_recordings_and_keeps_their_order(exported: Exported, recordings: list[Floats]) -> None:
    runtime = OnnxTransducer(exported.bundle)
    texts = runtime.transcribe(recordings)
    assert all(texts), "an untrained student that says nothing tests nothing"
    assert len(set(texts)) == len(texts)
    assert runtime.transcribe(list(reversed(recordings)), batch_duration_s=30.0) == list(reversed(texts))
    silence = np.zeros(24_000, dtype=np.float32)
    long = np.concatenate([recordings[0], silence, recordings[3]])
    assert len(runtime.transcribe([long], max_window_s=4.0)[0]) > len(texts[0])
    assert runtime.transcribe([np.zeros(0, dtype=np.float32), np.zeros(500, dtype=np.float32)]) == ["", ""]
    assert runtime.transcribe([]) == []
    assert len(runtime.transcribe(recordings, decoder="modified_beam_search")) == len(recordings)


def test_a_bundle_without_a_graph_is_refused(altered: Callable[..., Path]) -> None:
    bundle = altered("none", lambda graph: None)
    (bundle / "offline" / "encoder.int8.onnx").unlink()
    OnnxTransducer(bundle)
    with pytest.raises(ArtifactNotFoundError, match=r"encoder\.int8\.onnx"):
        OnnxTransducer(bundle, int8=True)
    (bundle / "offline" / "joiner.onnx").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"joiner\.onnx"):
        OnnxTransducer(bundle)


def test_a_damaged_graph_is_refused(altered: Callable[..., Path]) -> None:
    bundle = altered("none", lambda graph: None)
    (bundle / "offline" / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactCorruptError, match="a graph that onnxruntime can run"):
        OnnxTransducer(bundle)


def test_a_decoder_without_context_size_is_refused(altered: Callable[..., Path]) -> None:
    def forget(graph: Any) -> None:
        del graph.metadata_props[:]

    with pytest.raises(ArtifactCorruptError, match="metadata context_size"):
        OnnxTransducer(altered("offline/decoder.onnx", forget))
