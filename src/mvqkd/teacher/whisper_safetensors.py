"""Whisper's encoder weights from safetensors files in transformers' naming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvqkd.errors import TeacherError
from mvqkd.teacher.base import check_layer
from mvqkd.teacher.whisper_encoder import WhisperEncoder, WhisperSizes, load_weights

# Saved from the whole model, or from the one without the vocabulary projection.
_ROOTS = ("model.encoder.", "encoder.")


def encoder_of_safetensors(name: str, config: Mapping[str, Any], files: Sequence[Path], layer: int) -> WhisperEncoder:
    """Build the encoder up to ``layer`` from a transformers Whisper checkpoint, sharded or not.

    Args:
        config: the checkpoint's config.json.
    Raises:
        TeacherError: weights or sizes are missing or do not fit, or there is no such layer.
    """
    try:
        sizes = WhisperSizes(
            num_mels=int(config["num_mel_bins"]),
            dim=int(config["d_model"]),
            num_heads=int(config["encoder_attention_heads"]),
            num_layers=int(config["encoder_layers"]),
            feedforward_dim=int(config["encoder_ffn_dim"]),
            max_frames=int(config["max_source_positions"]),
        )
        if (activation := config.get("activation_function", "gelu")) != "gelu":
            raise ValueError(f"activation_function {activation}")
        check_layer(name, layer, sizes.num_layers)
        encoder = WhisperEncoder(sizes, layer)
        load_weights(encoder, _rename(_read_encoder(files), layer))
    except (KeyError, ValueError, SafetensorError) as error:
        raise TeacherError(
            f"teacher {name}",
            expected="config and weights of a transformers Whisper model",
            got=f"{type(error).__name__}: {error}",
            next_step="fetch or save the model again",
        ) from error
    return encoder


def _read_encoder(files: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118  # a handle, not a mapping
                for root in _ROOTS:
                    if key.startswith(root):
                        tensors[key.removeprefix(root)] = shard.get_tensor(key)
    return tensors


def _rename(theirs: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    ours = {"positions": theirs["embed_positions.weight"]}
    modules = {"conv1": "conv1", "conv2": "conv2", "final_norm": "layer_norm"}
    for index in range(num_layers):
        layer = f"layers.{index}"
        modules[f"{layer}.attention_norm"] = f"{layer}.self_attn_layer_norm"
        modules[f"{layer}.attention_out"] = f"{layer}.self_attn.out_proj"
        modules[f"{layer}.feedforward_norm"] = f"{layer}.final_layer_norm"
        modules[f"{layer}.feedforward_in"] = f"{layer}.fc1"
        modules[f"{layer}.feedforward_out"] = f"{layer}.fc2"
        query, key, value = (f"{layer}.self_attn.{part}_proj" for part in "qkv")
        ours[f"{layer}.qkv.weight"] = torch.cat([theirs[f"{part}.weight"] for part in (query, key, value)])
        # Whisper's key projection has no bias.
        query_bias, value_bias = theirs[f"{query}.bias"], theirs[f"{value}.bias"]
        ours[f"{layer}.qkv.bias"] = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
    for own, their in modules.items():
        ours |= {f"{own}.{kind}": theirs[f"{their}.{kind}"] for kind in ("weight", "bias")}
    return ours
