"""The student as ONNX graphs in sherpa-onnx's offline transducer layout.

Tensors are matched by order there, and metadata drives the decoder, so both are part of the contract:

encoder  x float (N, T, 80), x_lens int64 (N,) -> encoder_out float (N, S, J), encoder_out_lens int64 (N,)
decoder  y int64 (N, C) -> decoder_out float (N, J); metadata vocab_size, context_size
joiner   encoder_out float (N, J), decoder_out float (N, J) -> logits float (N, V); metadata joiner_dim

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvqkd.data.features import NUM_MELS
from mvqkd.decode.onnx_runtime import Part
from mvqkd.errors import ExportParityError
from mvqkd.frames import SUBSAMPLING_CONTEXT_FRAMES
from mvqkd.student.model import Student

# Sizes that the exporter traces with; neither may be 0 or 1, which it would take for constants.
_TRACE_BATCH, _TRACE_FRAMES = 2, 103


class OfflineEncoder(nn.Module):
    """Features to what the joiner adds."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.encoder = student.encoder
        self.project = student.joiner.encoder_proj

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        output, frames, _ = self.encoder(x, x_lens)
        return self.project(output), frames


class OfflineDecoder(nn.Module):
    """The last C symbols to what the joiner adds."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.decoder = student.decoder
        self.project = student.joiner.decoder_proj

    def forward(self, y: Tensor) -> Tensor:
        projected: Tensor = self.project(self.decoder(y).squeeze(1))
        return projected


class OfflineJoiner(nn.Module):
    """Both projections to logits."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.joiner = student.joiner

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        logits: Tensor = self.joiner(encoder_out, decoder_out)
        return logits


def export_offline(student: Student, *, opset: int, lineage: Mapping[str, str]) -> dict[Part, Any]:
    """Export encoder, decoder and joiner; equal students give equal bytes.

    Args:
        student: float32, on the CPU; put into eval mode.
        opset: ONNX operator set.
        lineage: key -> artifact id, written into every graph's metadata.
    Returns:
        part -> ``onnx.ModelProto``, checked with shape inference.
    Raises:
        ExportParityError: the exporter cannot express the student, or the checker refuses what it made.
    """
    student.eval()
    config = student.config
    common = {"version": "1", "model_author": "mvqkd", **{f"mvqkd.{key}": value for key, value in lineage.items()}}
    # Two tensors: given one tensor twice, the exporter takes both inputs for the same.
    joined = [torch.zeros(_TRACE_BATCH, config.joiner_dim) for _ in range(2)]
    return {
        "encoder": _export(
            OfflineEncoder(student),
            (
                torch.zeros(_TRACE_BATCH, _TRACE_FRAMES, NUM_MELS),
                torch.tensor([_TRACE_FRAMES, _TRACE_FRAMES - 10], dtype=torch.int64),
            ),
            {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}},
            ["encoder_out", "encoder_out_lens"],
            opset,
            {
                **common,
                "model_type": "conformer",
                "comment": "causal-chunk Conformer, offline",
                "feature_dim": str(NUM_MELS),
                "subsampling_factor": "4",
                "min_feature_frames": str(SUBSAMPLING_CONTEXT_FRAMES),
            },
        ),
        "decoder": _export(
            OfflineDecoder(student),
            (torch.zeros(_TRACE_BATCH, config.context_size, dtype=torch.int64),),
            {"y": {0: "N"}},
            ["decoder_out"],
            opset,
            {**common, "vocab_size": str(student.vocab_size), "context_size": str(config.context_size)},
        ),
        "joiner": _export(
            OfflineJoiner(student),
            (joined[0], joined[1]),
            {"encoder_out": {0: "N"}, "decoder_out": {0: "N"}},
            ["logits"],
            opset,
            {**common, "joiner_dim": str(config.joiner_dim)},
        ),
    }


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    dynamic_shapes: dict[str, dict[int, str]],
    outputs: list[str],
    opset: int,
    metadata: Mapping[str, str],
) -> Any:
    import onnx

    name = type(module).__name__
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(dynamic_shapes),
                output_names=outputs,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _strip(model)
        onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportParityError(
            f"graph {name}",
            expected=f"an ONNX graph of opset {opset}",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}",
            next_step="set export-onnx.opset to its default, or report the student's sizes",
        ) from error
    return model


def _strip(model: Any) -> None:
    """Remove what the exporter notes about this machine (paths, stack traces) and what differs between runs."""
    graph = model.graph
    graph.name = "main"
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    del graph.metadata_props[:]
    del model.metadata_props[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's remarks about optional packages and its own deprecations; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
