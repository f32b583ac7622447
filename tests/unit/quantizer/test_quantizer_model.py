from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ArtifactNotFoundError, DataError
from mvqkd.quantizer import Quantizer, model
from mvqkd.quantizer.model import QUANTIZER_FILE
from mvqkd.quantizer.search import SearchMode


def make(dim: int = 24, num_codebooks: int = 4, size: int = 16, seed: int = 0) -> Quantizer:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(dim, generator=generator)
    std = torch.rand(dim, generator=generator) + 0.5
    return Quantizer(dim, num_codebooks, size, mean=mean, std=std, generator=generator).requires_grad_(False)


def batch(count: int, dim: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_decoding_is_the_sum_of_centers_in_the_teachers_scale() -> None:
    quantizer = make()
    quantizer.centers_log_scale.fill_(0.05)
    indexes = torch.tensor([[3, 0, 15, 7]], dtype=torch.uint8)
    total = sum(quantizer.centers[n, int(k)] for n, k in enumerate(indexes[0])) * torch.tensor(0.5).exp()
    torch.testing.assert_close(quantizer.decode(indexes)[0], total * quantizer.std + quantizer.mean)


def test_a_sum_of_centers_is_encoded_as_those_centers() -> None:
    quantizer = make(dim=64)
    indexes = torch.randint(0, 16, (50, 4), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    assert torch.equal(quantizer.encode(quantizer.decode(indexes)), indexes)


@pytest.mark.parametrize(("num_codebooks", "size", "width"), [(8, 256, 8), (8, 16, 4), (1, 16, 1)])
def test_bytes_per_frame(num_codebooks: int, size: int, width: int) -> None:
    quantizer = make(num_codebooks=num_codebooks, size=size)
    assert quantizer.bytes_per_frame == width
    encoded = quantizer.encode(batch(3))
    assert encoded.dtype == torch.uint8
    assert encoded.shape == (3, num_codebooks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_encoded_as_their_float32(dtype: torch.dtype) -> None:
    quantizer, x = make(), batch(40).to(dtype)
    assert torch.equal(quantizer.encode(x), quantizer.encode(x.float()))


def test_no_vectors() -> None:
    quantizer = make()
    assert quantizer.encode(batch(0)).shape == (0, 4)
    assert quantizer.decode(torch.empty(0, 4, dtype=torch.uint8)).shape == (0, 24)


@pytest.mark.parametrize("x", [torch.zeros(3, 23), torch.zeros(24), torch.zeros(3, 24, dtype=torch.long)])
def test_embeddings_of_another_shape_are_refused(x: Tensor) -> None:
    with pytest.raises(ArtifactMismatchError, match=r"\(B, 24\)"):
        make().encode(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, -1e20])
@pytest.mark.parametrize("constant", [False, True])
def test_embeddings_that_cannot_be_squared_are_refused_by_row(value: float, constant: bool) -> None:
    x, quantizer = batch(5), make()
    x[3, 7] = value
    if constant:
        quantizer.std[7] = 0
        if abs(value) < float("inf"):
            assert quantizer.encode(x).shape == (5, 4)  # what a constant channel says is not used
            return
    with pytest.raises(DataError, match="embedding 3 of 5"):
        quantizer.encode(x)


@pytest.mark.parametrize("mode", ["exact", "best", "fast"])
def test_large_numbers_short_of_that_have_indexes(mode: SearchMode) -> None:
    for size in (16, 256, 4):
        quantizer = make(size=size)
        for factor in (0.0, 1e-30, 1e5, 1e11):
            encoded = quantizer.encode(batch(9) * factor, mode=mode)
            assert int(encoded.max()) < size


def test_strided_embeddings_are_encoded_as_their_copy() -> None:
    quantizer, x = make(), batch(120)
    encoded = quantizer.encode(x)
    assert torch.equal(quantizer.encode(x[::3]), encoded[::3])
    assert torch.equal(quantizer.encode(x.T.contiguous().T), encoded)
    assert torch.equal(quantizer.encode(x[:1].expand(5, -1)), encoded[:1].expand(5, -1))
    assert torch.equal(quantizer.encode(x.flip(0)), encoded.flip(0))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="one of exact, best, fast"):
        make().encode(batch(2), mode="slow")


def test_large_batches_are_encoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer, x = make(), batch(50)
    whole = quantizer.encode(x)
    monkeypatch.setattr(model, "ENCODE_BYTES", 0)
    monkeypatch.setattr(model, "UNARY_BLOCK", 16)
    assert torch.equal(quantizer.encode(x), whole)
    x[40, 1] = float("nan")
    with pytest.raises(DataError, match="embedding 40 of 50"):
        quantizer.encode(x)


def test_the_number_of_threads_does_not_show() -> None:
    quantizer, x = make(dim=64, num_codebooks=8, size=256), batch(700, 64)
    threads = torch.get_num_threads()
    encoded = []
    for count in (1, 2):
        torch.set_num_threads(count)
        encoded.append(quantizer.encode(x))
    torch.set_num_threads(threads)
    assert torch.equal(*encoded)


@pytest.mark.parametrize("indexes", [torch.tensor([[0, 0, 0, 16]]), torch.tensor([[0, 0, -1, 0]]), torch.zeros(2, 3)])
def test_indexes_that_do_not_fit_are_refused(indexes: Tensor) -> None:
    with pytest.raises(ArtifactMismatchError):
        make().decode(indexes)


@pytest.mark.parametrize(("num_codebooks", "size"), [(0, 16), (129, 16), (4, 100), (4, 512)])
def test_sizes_that_cannot_be(num_codebooks: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"power of two|within 1"):
        Quantizer(8, num_codebooks, size)


def test_search_tables_follow_the_centers() -> None:
    quantizer, x = make(), batch(30)
    before = quantizer.encode(x)
    quantizer.centers.mul_(-1)
    after = quantizer.encode(x)
    assert not torch.equal(before, after)
    fresh = make()
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh.encode(x), after)


def test_saved_and_loaded(tmp_path: Path) -> None:
    quantizer, x = make(), batch(30)
    quantizer.save(tmp_path)
    random_state = torch.get_rng_state()
    loaded = Quantizer.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert loaded.id == quantizer.id
    assert torch.equal(loaded.encode(x), quantizer.encode(x))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    other = tmp_path / "other"
    loaded.save(other)
    assert (other / QUANTIZER_FILE).read_bytes() == (tmp_path / QUANTIZER_FILE).read_bytes()


def test_id_depends_on_every_weight_and_on_the_identity() -> None:
    quantizer = make()
    ids = {quantizer.id, make(seed=1).id}
    for tensor in quantizer.state_dict().values():
        tensor.add_(1)
        ids.add(quantizer.id)
    assert len(ids) == 2 + len(quantizer.state_dict())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    make().save(tmp_path)
    path = tmp_path / QUANTIZER_FILE
    raw = bytearray(path.read_bytes())
    if damage == "truncated":
        raw = raw[:-10]
    elif damage == "flipped":
        raw[-10] ^= 1
    else:
        raw = bytearray(b"hello")
    path.write_bytes(raw)
    with pytest.raises(ArtifactCorruptError, match=QUANTIZER_FILE):
        Quantizer.load(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="fit-quantizer"):
        Quantizer.load(tmp_path)


def test_the_lines_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- quantizer.*?-->\n```python\n(.*?)```", text, re.S)
    assert block is not None
    lines = block[1].replace("20_000, 384", "300, 16").replace("num_codebooks=8", "phase_1_steps=2, phase_2_steps=2")
    assert lines.count("_steps=2") == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, Tensor] = {}
    exec(lines, names)
    assert names["indexes"].dtype == torch.uint8
    assert names["indexes"].shape == (300, 8)
    assert names["reconstruction"].shape == (300, 16)
    assert torch.equal(names["again"].encode(names["embeddings"]), names["indexes"])
