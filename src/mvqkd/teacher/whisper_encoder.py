"""Whisper's audio encoder in torch, for recordings of any length up to its window.

Whisper itself pads every recording to 30 s and has no mask. Here a recording keeps its own length: what lies
past it is masked in the convolutions and in the attention, which costs a fraction of the time for short
recordings and makes the result independent of batch mates.

Source: Radford et al. 2022, arXiv 2212.04356, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.torchaudio_compat import import_torchaudio

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
MEL_FRAMES_PER_FRAME = 2
SAMPLES_PER_FRAME = HOP_SAMPLES * MEL_FRAMES_PER_FRAME
_DYNAMIC_RANGE = 8.0


@dataclass(frozen=True)
class WhisperSizes:
    """Dimensions of a Whisper encoder; max_frames is its window (1500 frames, 30 s)."""

    num_mels: int
    dim: int
    num_heads: int
    num_layers: int
    feedforward_dim: int
    max_frames: int = 1500


class LogMel(nn.Module):
    """Whisper's log-mel features of one recording.

    The recording is followed by silence, as within Whisper's 30 s window; the frames given are equal to the
    first ones of that window. Each recording is scaled by its own maximum.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        filters = import_torchaudio().functional.melscale_fbanks(
            n_freqs=WINDOW_SAMPLES // 2 + 1,
            f_min=0.0,
            f_max=SAMPLE_RATE_HZ / 2,
            n_mels=num_mels,
            sample_rate=SAMPLE_RATE_HZ,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, samples: Tensor, num_mel_frames: int) -> Tensor:
        """Compute features, 100 Hz.

        Args:
            samples: float32 (S,), 16 kHz.
            num_mel_frames: M; frames past the recording are silence.
        Returns:
            float32 (num_mels, M).
        """
        # stft reflects at both ends: its window needs half a window of samples before the last frame's centre.
        needed = max(num_mel_frames * HOP_SAMPLES, WINDOW_SAMPLES) + WINDOW_SAMPLES
        samples = functional.pad(samples, (0, max(0, needed - samples.numel())))
        spectrum = torch.stft(
            samples, WINDOW_SAMPLES, HOP_SAMPLES, window=self.window, center=True, return_complex=True
        )
        power = spectrum[:, :num_mel_frames].abs().square()
        log_mel = (self.filters @ power).clamp(min=1e-10).log10()
        log_mel = torch.maximum(log_mel, log_mel.max() - _DYNAMIC_RANGE)
        return (log_mel + 4.0) / 4.0


class EncoderLayer(nn.Module):
    """One pre-norm Transformer layer."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward_in = nn.Linear(dim, feedforward_dim)
        self.feedforward_out = nn.Linear(feedforward_dim, dim)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Shapes: x float32 (N, T, D); key_mask bool (N, 1, 1, T), True where a frame may be attended to."""
        num_items, num_frames, dim = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(num_items, num_frames, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(num_items, num_frames, dim))
        hidden: Tensor = functional.gelu(self.feedforward_in(self.feedforward_norm(x)))
        output: Tensor = x + self.feedforward_out(hidden)
        return output


class WhisperEncoder(nn.Module):
    """The encoder up to one layer; layers above it are not built.

    The last layer's output includes the encoder's final layer norm (what Whisper's decoder sees); the others
    are the plain residual stream.
    """

    positions: Tensor

    def __init__(self, sizes: WhisperSizes, layer: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv1 = nn.Conv1d(sizes.num_mels, sizes.dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(sizes.dim, sizes.dim, kernel_size=3, stride=MEL_FRAMES_PER_FRAME, padding=1)
        self.register_buffer("positions", torch.zeros(sizes.max_frames, sizes.dim))
        self.layers = nn.ModuleList(
            EncoderLayer(sizes.dim, sizes.num_heads, sizes.feedforward_dim) for _ in range(layer)
        )
        self.final_norm = nn.LayerNorm(sizes.dim) if layer == sizes.num_layers else nn.Identity()

    def forward(self, mel: Tensor, num_frames: Tensor) -> Tensor:
        """Encode a padded batch.

        Shapes: N recordings, T frames of the longest (50 Hz), D channels.
        Args:
            mel: float32 (N, num_mels, 2 T), zero at and past 2 num_frames[n].
            num_frames: int64 (N,), at least 1.
        Returns:
            float32 (N, T, D), zero at and past num_frames.
        """
        longest = mel.shape[2] // MEL_FRAMES_PER_FRAME
        padded = bool((num_frames < longest).any())
        frame = torch.arange(longest, device=mel.device)
        valid = frame[None, :] < num_frames[:, None]
        # An even number of mel frames each: the last frame's convolutions see nothing of the padding but its zeros.
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel))))
        x = x.transpose(1, 2) + self.positions[:longest]
        key_mask = valid[:, None, None, :] if padded else None
        for layer in self.layers:
            x = layer(x, key_mask)
        output: Tensor = self.final_norm(x)
        return output.where(valid[:, :, None], 0.0)


def load_weights(encoder: WhisperEncoder, weights: Mapping[str, Tensor]) -> None:
    """Copy weights named as the encoder's own; surplus ones (higher layers) are left, missing ones refused.

    Raises:
        KeyError: a weight is missing.
        ValueError: a weight has another shape.
    """
    state = encoder.state_dict()
    for name, target in state.items():
        source = weights[name]
        if source.shape != target.shape:
            raise ValueError(f"{name} of shape {tuple(source.shape)}, not {tuple(target.shape)}")
        target.copy_(source)
