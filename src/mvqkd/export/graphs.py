"""The student as ONNX graphs in sherpa-onnx's layouts: offline and streaming transducer, offline CTC.

Tensors are matched by order there, and metadata drives the decoder, so both are part of the contract:

offline encoder    x float (N, T, 80), x_lens int64 (N,) -> encoder_out float (N, S, J), encoder_out_lens int64 (N,)
streaming encoder  x float (N, T, 80), attention_cache float (L, 2 P, N, D), convolution_cache float (L, K - 1, N, D),
                   processed_lens int64 (N,) -> encoder_out float (N, S, J) and both caches; T and S are a chunk's
decoder            y int64 (N, C) -> decoder_out float (N, J); metadata vocab_size, context_size
joiner             encoder_out float (N, J), decoder_out float (N, J) -> logits float (N, V); metadata joiner_dim
CTC                x float (N, T, 80), x_lens int64 (N,) -> log_probs float (N, S, V), log_probs_lens int64 (N,)

sherpa-onnx calls the streaming layout "conformer" and asks for the first cache's size in the metadata, not for what
is in it: it holds keys and values, so that nothing of the left context is computed twice.

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels, V vocabulary, L blocks,
P student frames of left context, K taps of the convolution, D encoder channels.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvqkd.artifacts import atomic_open
from mvqkd.data.features import NUM_MELS
from mvqkd.decode.onnx_graphs import CTC, OFFLINE, STREAMING, Part, Variant, graph_file
from mvqkd.errors import ExportParityError
from mvqkd.export.quantize import quantize_matmuls
from mvqkd.frames import SUBSAMPLING_CONTEXT_FRAMES, SUBSAMPLING_FACTOR
from mvqkd.student.model import Student
from mvqkd.student.streaming import StreamingEncoder

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


class ChunkEncoder(nn.Module):
    """A chunk of features and the caches to what the joiner adds."""

    def __init__(self, student: Student, chunk_frames: int) -> None:
        super().__init__()
        self.encoder = StreamingEncoder(student.encoder, chunk_frames)
        self.project = student.joiner.encoder_proj

    def forward(
        self, x: Tensor, attention_cache: Tensor, convolution_cache: Tensor, processed_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, attention, convolution = self.encoder(x, attention_cache, convolution_cache, processed_lens)
        return self.project(output), attention, convolution


class ContextDecoder(nn.Module):
    """The last C symbols to what the joiner adds."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.decoder = student.decoder
        self.project = student.joiner.decoder_proj

    def forward(self, y: Tensor) -> Tensor:
        projected: Tensor = self.project(self.decoder(y).squeeze(1))
        return projected


class ProjectedJoiner(nn.Module):
    """Both projections to logits."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.joiner = student.joiner

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        logits: Tensor = self.joiner(encoder_out, decoder_out)
        return logits


class CtcModel(nn.Module):
    """Features to log-probabilities of the CTC head."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        output, frames, _ = self.student.encoder(x, x_lens)
        return self.student.ctc_scores(output), frames


def export_graphs(
    student: Student, *, opset: int, chunk_frames: int, lineage: Mapping[str, str]
) -> dict[tuple[Variant, Part], Any]:
    """Export every graph of a bundle; equal students give equal bytes.

    Args:
        student: float32, on the CPU; put into eval mode.
        opset: ONNX operator set.
        chunk_frames: student frames a chunk of the streaming encoder.
        lineage: key -> artifact id, written into every graph's metadata.
    Returns:
        (variant, part) -> ``onnx.ModelProto``, checked with shape inference. Decoder and joiner are the same objects
        for the offline and the streaming transducer.
    Raises:
        ExportParityError: the exporter cannot express the student, or the checker refuses what it made.
    """
    student.eval()
    config = student.config
    author = {"version": "1", "model_author": "mvqkd", **{f"mvqkd.{key}": value for key, value in lineage.items()}}
    features = {"feature_dim": str(NUM_MELS), "subsampling_factor": str(SUBSAMPLING_FACTOR)}
    padded = (
        torch.zeros(_TRACE_BATCH, _TRACE_FRAMES, NUM_MELS),
        torch.tensor([_TRACE_FRAMES, _TRACE_FRAMES - 10], dtype=torch.int64),
    )
    # Two tensors: given one tensor twice, the exporter takes both inputs for the same.
    joined = [torch.zeros(_TRACE_BATCH, config.joiner_dim) for _ in range(2)]
    streaming = ChunkEncoder(student, chunk_frames)
    chunk = torch.zeros(_TRACE_BATCH, streaming.encoder.feature_frames, NUM_MELS)
    graphs: dict[tuple[Variant, Part], Any] = {
        (OFFLINE, "encoder"): _export(
            OfflineEncoder(student),
            padded,
            {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}},
            ["encoder_out", "encoder_out_lens"],
            opset,
            {
                **author,
                **features,
                "model_type": "conformer",
                "comment": "causal-chunk Conformer, offline",
                "min_feature_frames": str(SUBSAMPLING_CONTEXT_FRAMES),
            },
        ),
        (OFFLINE, "decoder"): _export(
            ContextDecoder(student),
            (torch.zeros(_TRACE_BATCH, config.context_size, dtype=torch.int64),),
            {"y": {0: "N"}},
            ["decoder_out"],
            opset,
            {**author, "vocab_size": str(student.vocab_size), "context_size": str(config.context_size)},
        ),
        (OFFLINE, "joiner"): _export(
            ProjectedJoiner(student),
            (joined[0], joined[1]),
            {"encoder_out": {0: "N"}, "decoder_out": {0: "N"}},
            ["logits"],
            opset,
            {**author, "joiner_dim": str(config.joiner_dim)},
        ),
        (STREAMING, "encoder"): _export(
            streaming,
            (chunk, *streaming.encoder.start(_TRACE_BATCH)),
            {"x": {0: "N"}, "attention_cache": {2: "N"}, "convolution_cache": {2: "N"}, "processed_lens": {0: "N"}},
            ["encoder_out", "new_attention_cache", "new_convolution_cache"],
            opset,
            {**author, **features, **_streaming_metadata(streaming.encoder)},
        ),
        (CTC, "model"): _export(
            CtcModel(student),
            padded,
            {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}},
            ["log_probs", "log_probs_lens"],
            opset,
            {
                **author,
                **features,
                "model_type": "zipformer2_ctc",
                "comment": "causal-chunk Conformer, CTC head",
                "vocab_size": str(student.vocab_size),
            },
        ),
    }
    shared: tuple[Part, ...] = ("decoder", "joiner")
    return graphs | {(STREAMING, part): graphs[OFFLINE, part] for part in shared}


def write_graphs(
    student: Student, directory: Path, *, opset: int, chunk_frames: int, lineage: Mapping[str, str], int8: bool
) -> None:
    """Export every graph into a bundle's directory, with ``int8`` also quantised; see ``export_graphs``."""
    for (variant, part), graph in export_graphs(
        student, opset=opset, chunk_frames=chunk_frames, lineage=lineage
    ).items():
        # Activations are quantised by the range of a whole call: in decoder and joiner, which take few rows at a time,
        # what a search finds would depend on how many it asks for at once. They are small, and as fast in float32.
        quantizes = int8 and part in ("encoder", "model")
        precisions = {False: graph, True: quantize_matmuls(graph)} if quantizes else {False: graph}
        for quantized, model in precisions.items():
            with atomic_open(directory / graph_file(part, int8=quantized, variant=variant), "wb") as stream:
                stream.write(model.SerializeToString(deterministic=True))


def _streaming_metadata(encoder: StreamingEncoder) -> dict[str, str]:
    sizes = {
        "T": encoder.feature_frames,
        "decode_chunk_len": encoder.feature_shift,
        "num_encoder_layers": len(encoder.encoder.blocks),
        # Frames of the attention cache: keys, then values.
        "left_context": 2 * encoder.cached_frames,
        "encoder_dim": encoder.encoder.encoder_dim,
        "pad_length": encoder.feature_frames - encoder.feature_shift,
        "cnn_module_kernel": encoder.encoder.conv_kernel,
    }
    return {
        "model_type": "conformer",
        "comment": "causal-chunk Conformer, streaming",
        **{key: str(value) for key, value in sizes.items()},
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
