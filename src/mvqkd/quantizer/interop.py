"""Exchange of quantizers with the public implementation, the PyPI package multi-quantization 0.1.1.

Its state dict has six tensors: ``to_logits.weight`` (N * K, D), ``to_logits.bias`` (N * K,), ``centers`` (N, K, D),
the log-scales ``logits_scale`` and ``centers_scale`` (effective scale exp(10 s): the first on the input of the logits,
ahead of the bias, the second on the centers), and ``id_buf``, eight hex digits as ASCII. These are our parameters under
other names; there is no mean and no deviation of the channels. N, K and D are not stored: they are read off the
centers.

Import copies: equal tensors, hence equal codes in mode "exact", save where two choices are as good as equal and only
the rounding of float32 sums tells them apart.

Export copies too where the quantizer normalises nothing. A mean can be moved into the bias and the centers: in real
numbers the codes stay. Deviations of channels cannot, unless all are equal, which no fit makes: logits and centers
could absorb them, and decoding would agree, but the package's search compares squared errors in the space of its
input, ours in the normalised one, so it would settle on other codes. Such a quantizer is exported for normalised input
only, on request: then nothing is lost, and the caller normalises with ``Quantizer.normalize``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mvqkd.errors import ArtifactMismatchError, DataError
from mvqkd.quantizer.model import IDENTITY_BYTES, LOG_SCALE_SPEED, MAX_CODEBOOKS, Quantizer

PACKAGE = "multi-quantization"
# Their tensors as ours, the identity apart.
OUR_NAMES = {
    "to_logits.weight": "logits_weight",
    "to_logits.bias": "logits_bias",
    "centers": "centers",
    "logits_scale": "logits_log_scale",
    "centers_scale": "centers_log_scale",
}
ID_KEY = "id_buf"
ID_BYTES = 8
# Second half of the identity of an imported quantizer: says that the first half is the package's own id.
IMPORTED = tuple(PACKAGE[: IDENTITY_BYTES - ID_BYTES].encode())


def from_multi_quantization(state_dict: Mapping[str, Tensor]) -> Quantizer:
    """Import a quantizer of the package multi-quantization: mean 0, deviation 1, on the CPU, without gradients.

    Its codes come back from ``encode(x, "exact", iterations)`` one index a byte, as the package's
    ``encode(x, refine_indexes_iters=iterations, as_bytes=False)`` gives them; with ``as_bytes`` it packs the indexes of
    small codebooks. Tensors of another float type are converted to float32, as the package does when it loads them.

    Args:
        state_dict: what ``state_dict()`` of the package's ``Quantizer`` returns.
    Raises:
        ArtifactMismatchError: other keys, shapes or types than the package writes, or sizes that it does not allow.
        DataError: a weight is NaN or infinite, or a scale overflows.
    """
    subject = f"{PACKAGE} state dict"
    if state_dict.keys() != {*OUR_NAMES, ID_KEY}:
        missing = sorted({*OUR_NAMES, ID_KEY} - state_dict.keys())
        unknown = sorted(state_dict.keys() - {*OUR_NAMES, ID_KEY})
        raise ArtifactMismatchError(
            subject,
            expected=f"the keys {', '.join([*OUR_NAMES, ID_KEY])}",
            got=f"{_few(missing)} missing, {_few(unknown)} unknown",
            next_step="pass the state_dict() of its Quantizer, taken out of any checkpoint or wrapper around it",
        )
    num_codebooks, codebook_size, dim = _sizes(state_dict["centers"], subject)
    # A generator of its own: importing must not move the caller's random state.
    quantizer = Quantizer(dim, num_codebooks, codebook_size, generator=torch.Generator())
    ours = quantizer.state_dict()
    with torch.no_grad():
        for theirs, name in OUR_NAMES.items():
            tensor = state_dict[theirs]
            _check_shape(tensor.is_floating_point(), tensor, "float", ours[name].shape, f"{subject}, {theirs}")
            _check_finite(tensor.float(), f"{subject}, {theirs}")
            ours[name].copy_(tensor)
        identity = state_dict[ID_KEY]
        _check_shape(
            identity.dtype == torch.uint8, identity, "torch.uint8", torch.Size([ID_BYTES]), f"{subject}, {ID_KEY}"
        )
        quantizer.identity.copy_(torch.cat([identity.cpu(), torch.tensor(IMPORTED, dtype=torch.uint8)]))
    _check_finite(
        (LOG_SCALE_SPEED * quantizer.logits_log_scale).exp(), f"{subject}, exp of {LOG_SCALE_SPEED:g} logits_scale"
    )
    _check_finite(quantizer.effective_centers(), f"{subject}, centers times exp of {LOG_SCALE_SPEED:g} centers_scale")
    return quantizer.requires_grad_(False)


def to_multi_quantization(quantizer: Quantizer, *, normalized_input: bool = False) -> dict[str, Tensor]:
    """Export a quantizer as a state dict for the package's ``Quantizer(dim, codebook_size, num_codebooks)``.

    Bit-exact where mean is 0 and deviation 1, and with ``normalized_input``: importing the result again gives equal
    weights and codes, and an imported quantizer gives the tensors that it came from. A mean other than 0 is moved into
    the bias and, in equal parts, into the centers of every codebook: exact in real numbers, rounded to float32, so
    that codes may differ where two choices are as good as equal. What was imported keeps the package's identity;
    others get the first eight digits of their ``id``.

    Args:
        normalized_input: leave mean and deviation out. The result encodes ``quantizer.normalize(x)`` as the quantizer
            encodes x, and what it decodes is to go through ``quantizer.denormalize``.
    Returns:
        New float32 tensors on the CPU, and ``id_buf``.
    Raises:
        ArtifactMismatchError: the package cannot hold the quantizer: its number of codebooks is no power of two, or
            channels have a deviation other than 1 (see the head of this module) and ``normalized_input`` is not set.
        DataError: a weight is NaN or infinite.
    """
    subject = f"quantizer {quantizer.id[:12]}"
    if not _is_power_of_two(quantizer.num_codebooks):
        raise ArtifactMismatchError(
            subject,
            expected=f"a power of two codebooks, all that {PACKAGE} has",
            got=f"{quantizer.num_codebooks} codebooks",
            next_step="fit a quantizer with such a number of codebooks to export it",
        )
    if not normalized_input and not bool((quantizer.std == 1).all()):
        raise ArtifactMismatchError(
            subject,
            expected="channels of deviation 1 (the package weighs the errors of all channels equally, so it would find "
            "other codes)",
            got=f"deviations of {quantizer.std.min():g} to {quantizer.std.max():g}",
            next_step="export with normalized_input=True and give the package quantizer.normalize(x)",
        )
    ours = {name: tensor.detach().cpu().clone() for name, tensor in quantizer.state_dict().items()}
    for name in (*OUR_NAMES.values(), "mean"):
        _check_finite(ours[name], f"{subject}, {name}")
    if not normalized_input and bool(ours["mean"].any()):
        _move_mean(ours, quantizer.num_codebooks)
    exported = {theirs: ours[name] for theirs, name in OUR_NAMES.items()}
    if tuple(ours["identity"][ID_BYTES:].tolist()) == IMPORTED:
        exported[ID_KEY] = ours["identity"][:ID_BYTES].clone()
    else:
        exported[ID_KEY] = torch.tensor(list(quantizer.id[:ID_BYTES].encode()), dtype=torch.uint8)
    return exported


def _move_mean(ours: dict[str, Tensor], num_codebooks: int) -> None:
    """Put the mean into bias and centers: logits of x - mean are those of x with a lower bias."""
    mean = ours["mean"].double()
    shift = ours["logits_weight"].double() @ (mean * (LOG_SCALE_SPEED * ours["logits_log_scale"].double()).exp())
    ours["logits_bias"] = (ours["logits_bias"].double() - shift).float()
    share = mean / (num_codebooks * (LOG_SCALE_SPEED * ours["centers_log_scale"].double()).exp())
    ours["centers"] = (ours["centers"].double() + share).float()


def _sizes(centers: Tensor, subject: str) -> tuple[int, int, int]:
    """N, K and D, read off the centers."""
    num_codebooks, codebook_size, dim = centers.shape if centers.dim() == 3 else (0, 0, 0)
    fits = (
        dim >= 1
        and num_codebooks <= MAX_CODEBOOKS
        and 2 <= codebook_size <= 256
        and _is_power_of_two(num_codebooks)
        and _is_power_of_two(codebook_size)
    )
    if not fits:
        raise ArtifactMismatchError(
            f"{subject}, centers",
            expected=f"shape (N, K, D), N a power of two up to {MAX_CODEBOOKS}, K a power of two in 2..256",
            got=f"{tuple(centers.shape)}",
            next_step=f"check where it came from: {PACKAGE} does not make others, or not for codes of one byte",
        )
    return num_codebooks, codebook_size, dim


def _is_power_of_two(number: int) -> bool:
    return number >= 1 and number & (number - 1) == 0


def _check_shape(right_type: bool, tensor: Tensor, type_name: str, shape: torch.Size, subject: str) -> None:
    if not right_type or tensor.shape != shape:
        raise ArtifactMismatchError(
            subject,
            expected=f"{type_name} {tuple(shape)}, as the centers have it",
            got=f"{tensor.dtype} {tuple(tensor.shape)}",
            next_step="take all tensors from one and the same quantizer",
        )


def _check_finite(values: Tensor, subject: str) -> None:
    bad = int((~values.isfinite()).sum())
    if bad:
        raise DataError(
            subject,
            expected="finite numbers",
            got=f"NaN or infinity in {bad} of {values.numel()}",
            next_step="train the quantizer anew or use an earlier checkpoint of it",
        )


def _few(names: list[str]) -> str:
    """Some names, for a message of one line."""
    if not names:
        return "none"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
