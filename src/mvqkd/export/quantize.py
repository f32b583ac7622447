"""int8 variant of a graph: dynamic quantisation of its matrix products with constant weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

# onnxruntime's marks that a graph has been prepared and shape-inferred; it warns on the root logger without the first.
_PREPARED, _INFERRED = "onnx.quant.pre_process", "onnx.infer"


def quantize_matmuls(model: Any) -> Any:
    """Quantise the weights of MatMul to int8, one scale a channel; activations are quantised as they come.

    Convolutions stay in float32: with them the graph is slower than the original. Metadata is kept.

    Args:
        model: ``onnx.ModelProto``, checked; not changed.
    Returns:
        ``onnx.ModelProto``; equal graphs give equal bytes.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    metadata = {item.key: item.value for item in model.metadata_props}
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    onnx.helper.set_model_props(prepared, {**metadata, _PREPARED: "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(prepared, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, metadata)
    del quantized.graph.value_info[:]
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
