"""The exported graphs: sherpa-onnx's layout and metadata, stable bytes, nothing of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.export.graphs import ProjectedJoiner, _export

if TYPE_CHECKING:
    from conftest import Exported


def signature(graph: Any) -> list[tuple[str, int, list[str | int]]]:
    return [
        (
            item.name,
            item.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim],
        )
        for item in (*graph.graph.input, *graph.graph.output)
    ]


def metadata(graph: Any) -> dict[str, str]:
    return {item.key: item.value for item in graph.metadata_props}


def test_tensors_have_sherpas_order_types_and_dynamic_axes(exported: Exported) -> None:
    float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    x, x_lens, encoder_out, encoder_out_lens = signature(exported.graphs["offline/encoder.onnx"])
    assert x == ("x", float_, ["N", "T", 80])
    assert x_lens == ("x_lens", int_, ["N"])
    assert encoder_out[:2] == ("encoder_out", float_)
    assert encoder_out[2][0] == "N"
    assert isinstance(encoder_out[2][1], str), "the number of student frames must be dynamic"
    assert encoder_out[2][2] == 32
    assert encoder_out_lens == ("encoder_out_lens", int_, ["N"])
    assert signature(exported.graphs["offline/decoder.onnx"]) == [
        ("y", int_, ["N", 2]),
        ("decoder_out", float_, ["N", 32]),
    ]
    vocab_size = exported.student.vocab_size
    assert [item[1:] for item in signature(exported.graphs["offline/joiner.onnx"])] == [
        (float_, ["N", 32]),
        (float_, ["N", 32]),
        (float_, ["N", vocab_size]),
    ]


def test_metadata_is_what_sherpa_reads_and_where_it_came_from(exported: Exported) -> None:
    encoder, decoder, joiner = (
        metadata(exported.graphs[f"offline/{part}.onnx"]) for part in ("encoder", "decoder", "joiner")
    )
    assert encoder["model_type"] == "conformer"
    assert encoder["feature_dim"] == "80"
    assert decoder["vocab_size"] == str(exported.student.vocab_size)
    assert decoder["context_size"] == "2"
    assert joiner["joiner_dim"] == "32"
    for graph in exported.graphs.values():
        assert metadata(graph)["mvqkd.student-checkpoint"] == "0123abcd"


def test_the_streaming_encoder_is_what_sherpa_calls_conformer(exported: Exported) -> None:
    graph = exported.graphs["streaming/encoder.onnx"]
    said = {key: int(value) for key, value in metadata(graph).items() if value.isdecimal()}
    # The sizes that sherpa-onnx makes empty caches of and cuts chunks by.
    layers, left, kernel, dim = (
        said[key] for key in ("num_encoder_layers", "left_context", "cnn_module_kernel", "encoder_dim")
    )
    attention, convolution = [layers, left, "N", dim], [layers, kernel - 1, "N", dim]
    float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert signature(graph) == [
        ("x", float_, ["N", said["T"], 80]),
        ("attention_cache", float_, attention),
        ("convolution_cache", float_, convolution),
        ("processed_lens", int_, ["N"]),
        ("encoder_out", float_, ["N", 4, 32]),
        ("new_attention_cache", float_, attention),
        ("new_convolution_cache", float_, convolution),
    ]
    assert (said["T"], said["decode_chunk_len"]) == (4 * 4 + 3, 4 * 4)
    assert metadata(graph)["model_type"] == "conformer"


def test_streaming_shares_decoder_and_joiner_with_offline(exported: Exported) -> None:
    for part in ("decoder", "joiner"):
        shared, offline = (exported.bundle / variant / f"{part}.onnx" for variant in ("streaming", "offline"))
        assert shared.read_bytes() == offline.read_bytes()


def test_nothing_of_this_machine_is_inside(exported: Exported) -> None:
    for name, graph in exported.graphs.items():
        data = graph.SerializeToString()
        for trace in (str(Path(__file__).parents[3]), "site-packages", "stack_trace", "/root", "/home"):
            assert trace.encode() not in data, f"{name} holds {trace}"


def test_opset_is_the_one_asked_for(exported: Exported) -> None:
    for graph in exported.graphs.values():
        assert [(item.domain, item.version) for item in graph.opset_import if item.domain == ""] == [("", 18)]


def test_a_graph_that_cannot_be_expressed_is_one_clear_error(exported: Exported) -> None:
    import torch

    from mvqkd.errors import ExportParityError

    class Data(ProjectedJoiner):
        def forward(self, encoder_out: torch.Tensor, decoder_out: torch.Tensor) -> torch.Tensor:
            return encoder_out if encoder_out.sum() > 0 else decoder_out

    with pytest.raises(ExportParityError, match="graph Data: expected an ONNX graph of opset 18"):
        _export(Data(exported.student), (torch.ones(2, 3), torch.ones(2, 3)), {"a": {}, "b": {}}, ["c"], 18, {})


def test_int8_graphs_are_smaller_and_keep_their_metadata(exported: Exported) -> None:
    assert len(exported.graphs) == 10
    for name in ("offline/encoder", "streaming/encoder", "ctc/model"):
        plain, quantized = (exported.graphs[f"{name}{end}.onnx"] for end in ("", ".int8"))
        assert metadata(quantized) == metadata(plain)
        operators = [node.op_type for node in quantized.graph.node]
        assert "MatMulInteger" in operators
        assert "ConvInteger" not in operators
        assert quantized.ByteSize() < 0.75 * plain.ByteSize()


def test_the_int8_encoder_is_close(exported: Exported, features: list[NDArray[np.float32]]) -> None:
    batch = pad_features(features[:1])
    expected, frames = OnnxTransducer(exported.bundle).encode(*batch)
    got, got_frames = OnnxTransducer(exported.bundle, int8=True).encode(*batch)
    assert got_frames.tolist() == frames.tolist()
    error = np.abs(got - expected)
    assert error.max() > 0, "the int8 graph was not used"
    assert error.mean() < 0.1 * np.abs(expected).mean()
