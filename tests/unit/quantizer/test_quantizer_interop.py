from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.errors import ArtifactMismatchError, DataError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.interop import from_multi_quantization, to_multi_quantization

DIM, NUM_CODEBOOKS, SIZE = 24, 4, 16


def state_dict(
    dim: int = DIM, num_codebooks: int = NUM_CODEBOOKS, size: int = SIZE, seed: int = 0
) -> dict[str, Tensor]:
    """As the package's own quantizer has it, with scales that differ from 1 and from each other."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "centers": torch.randn(num_codebooks, size, dim, generator=generator),
        "logits_scale": torch.tensor(0.05),
        "centers_scale": torch.tensor(-0.08),
        "id_buf": torch.tensor(list(b"585ce3cf"), dtype=torch.uint8),
        "to_logits.weight": torch.randn(num_codebooks * size, dim, generator=generator),
        "to_logits.bias": torch.randn(num_codebooks * size, generator=generator),
    }


def ours(*, mean: Tensor | None = None, std: Tensor | None = None, num_codebooks: int = NUM_CODEBOOKS) -> Quantizer:
    generator = torch.Generator().manual_seed(5)
    quantizer = Quantizer(DIM, num_codebooks, SIZE, mean=mean, std=std, generator=generator).requires_grad_(False)
    quantizer.centers_log_scale.fill_(0.1)
    quantizer.logits_log_scale.fill_(-0.1)
    return quantizer


def vectors(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) * 2


def assert_equal_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def test_sizes_are_read_off_the_tensors() -> None:
    quantizer = from_multi_quantization(state_dict(dim=7, num_codebooks=8, size=4))
    assert (quantizer.dim, quantizer.num_codebooks, quantizer.codebook_size) == (7, 8, 4)
    assert torch.equal(quantizer.mean, torch.zeros(7))
    assert torch.equal(quantizer.std, torch.ones(7))
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())


def test_scales_apply_to_the_input_of_the_logits_and_to_the_centers() -> None:
    weights, x = state_dict(), vectors(50)
    quantizer = from_multi_quantization(weights)
    scores = (torch.tensor(0.5).exp() * x) @ weights["to_logits.weight"].T + weights["to_logits.bias"]
    first = scores.view(50, NUM_CODEBOOKS, SIZE).argmax(2)
    assert torch.equal(quantizer.encode(x, iterations=0).long(), first)
    chosen = torch.stack([weights["centers"][n, first[:, n]] for n in range(NUM_CODEBOOKS)]).sum(0)
    torch.testing.assert_close(quantizer.decode(first), chosen * torch.tensor(-0.8).exp())


def test_importing_copies_and_leaves_the_random_state_alone() -> None:
    weights, random_state = state_dict(), torch.get_rng_state()
    quantizer = from_multi_quantization(weights)
    assert torch.equal(torch.get_rng_state(), random_state)
    identity = quantizer.id
    for tensor in weights.values():
        tensor.zero_()
    assert quantizer.id == identity


def test_export_of_an_import_is_the_same_state_dict() -> None:
    weights = state_dict()
    exported = to_multi_quantization(from_multi_quantization(weights))
    assert_equal_tensors(exported, weights)
    assert_equal_tensors(to_multi_quantization(from_multi_quantization(exported)), weights)


def test_import_of_an_export_is_the_same_quantizer_but_for_its_identity() -> None:
    quantizer, x = ours(), vectors(60)
    back = from_multi_quantization(to_multi_quantization(quantizer))
    weights, others = dict(quantizer.state_dict()), dict(back.state_dict())
    del weights["identity"], others["identity"]
    assert_equal_tensors(others, weights)
    assert torch.equal(back.encode(x), quantizer.encode(x))
    assert back.id != quantizer.id


def test_identities_are_kept_apart() -> None:
    one, other = state_dict(), state_dict()
    other["id_buf"] = torch.tensor(list(b"585ce3ce"), dtype=torch.uint8)
    assert from_multi_quantization(one).id == from_multi_quantization(state_dict()).id
    assert from_multi_quantization(one).id != from_multi_quantization(other).id
    exported = bytes(to_multi_quantization(ours())["id_buf"].tolist()).decode()
    assert exported == ours().id[:8]


def test_exporting_copies() -> None:
    quantizer = ours()
    identity = quantizer.id
    for tensor in to_multi_quantization(quantizer).values():
        tensor.zero_()
    assert quantizer.id == identity


def test_a_mean_moves_into_bias_and_centers() -> None:
    mean = torch.linspace(-3, 3, DIM)
    quantizer, x = ours(mean=mean), vectors(200) + mean
    without = from_multi_quantization(to_multi_quantization(quantizer))
    assert torch.equal(without.mean, torch.zeros(DIM))
    for iterations in (0, 5):
        codes = quantizer.encode(x, iterations=iterations)
        assert torch.equal(without.encode(x, iterations=iterations), codes)
        torch.testing.assert_close(without.decode(codes), quantizer.decode(codes), rtol=1e-5, atol=1e-5)


def test_deviations_are_exported_for_normalized_input_only() -> None:
    std = torch.linspace(0.2, 5, DIM)
    quantizer, x = ours(mean=torch.ones(DIM), std=std), vectors(200)
    with pytest.raises(
        ArtifactMismatchError, match=rf"quantizer {quantizer.id[:12]}.*0\.2 to 5.*normalized_input=True"
    ):
        to_multi_quantization(quantizer)
    normalized = from_multi_quantization(to_multi_quantization(quantizer, normalized_input=True))
    codes = quantizer.encode(x)
    assert torch.equal(normalized.encode(quantizer.normalize(x)), codes)
    assert torch.equal(quantizer.denormalize(normalized.decode(codes)), quantizer.decode(codes))


def test_moving_deviations_into_weights_would_give_other_codes() -> None:
    """Why export refuses: the search in the teacher's space weighs the channels otherwise."""
    std = torch.linspace(0.2, 5, DIM)
    quantizer, x = ours(std=std), vectors(200) * std
    moved = to_multi_quantization(quantizer, normalized_input=True)
    moved["to_logits.weight"] = moved["to_logits.weight"] / std
    moved["centers"] = moved["centers"] * std
    other = from_multi_quantization(moved)
    codes = quantizer.encode(x)
    torch.testing.assert_close(other.decode(codes), quantizer.decode(codes), rtol=1e-5, atol=1e-5)
    assert torch.equal(other.encode(x, iterations=0), quantizer.encode(x, iterations=0))
    assert (other.encode(x) != codes).any(1).float().mean() > 0.5


def test_six_codebooks_are_not_exported() -> None:
    with pytest.raises(ArtifactMismatchError, match=r"power of two codebooks.*got 6"):
        to_multi_quantization(ours(num_codebooks=6))


def test_a_nan_is_not_exported() -> None:
    quantizer = ours()
    quantizer.logits_bias[3] = float("nan")
    with pytest.raises(DataError, match=r"logits_bias.*in 1 of 64"):
        to_multi_quantization(quantizer)


def test_float64_is_rounded_as_the_package_would() -> None:
    weights = {name: t.double() if t.is_floating_point() else t for name, t in state_dict().items()}
    assert_equal_tensors(to_multi_quantization(from_multi_quantization(weights)), state_dict())


@pytest.mark.parametrize("key", sorted(state_dict()))
def test_a_missing_key_is_named(key: str) -> None:
    weights = state_dict()
    del weights[key]
    with pytest.raises(ArtifactMismatchError, match=rf"got {key} missing, none unknown"):
        from_multi_quantization(weights)


def test_a_wrapper_is_named() -> None:
    weights = {f"module.{name}": tensor for name, tensor in state_dict().items()}
    with pytest.raises(ArtifactMismatchError, match=r"module\.centers.* and 2 more unknown; .*wrapper"):
        from_multi_quantization(weights)


@pytest.mark.parametrize("shape", [(3, 16, 8), (4, 12, 8), (4, 512, 8), (4, 1, 8), (256, 4, 8), (4, 16, 0), (64, 8)])
def test_sizes_that_cannot_be_are_refused(shape: tuple[int, ...]) -> None:
    weights = state_dict() | {"centers": torch.zeros(shape)}
    with pytest.raises(ArtifactMismatchError, match=r"centers.*power of two.*got \(" + str(shape[0])):
        from_multi_quantization(weights)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("to_logits.weight", torch.zeros(NUM_CODEBOOKS * SIZE, DIM + 1)),
        ("to_logits.weight", torch.zeros(NUM_CODEBOOKS * SIZE, DIM, dtype=torch.int64)),
        ("to_logits.bias", torch.zeros(NUM_CODEBOOKS * SIZE - 1)),
        ("logits_scale", torch.zeros(1)),
        ("centers_scale", torch.zeros(2)),
        ("id_buf", torch.zeros(16, dtype=torch.uint8)),
        ("id_buf", torch.zeros(8)),
    ],
)
def test_tensors_that_do_not_fit_the_centers_are_refused(key: str, tensor: Tensor) -> None:
    with pytest.raises(ArtifactMismatchError, match=rf"multi-quantization state dict, {key}.*got {tensor.dtype}"):
        from_multi_quantization(state_dict() | {key: tensor})


@pytest.mark.parametrize("key", sorted(set(state_dict()) - {"id_buf"}))
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(key: str, value: float) -> None:
    weights = state_dict()
    weights[key].view(-1)[-1] = value
    with pytest.raises(DataError, match=rf"{key}.*NaN or infinity in 1 of {weights[key].numel()}"):
        from_multi_quantization(weights)


@pytest.mark.parametrize("key", ["logits_scale", "centers_scale"])
def test_scales_that_overflow_are_refused(key: str) -> None:
    with pytest.raises(DataError, match=key):
        from_multi_quantization(state_dict() | {key: torch.tensor(9.0)})
