"""The reader of CTranslate2's model file: what it reads, and that it trusts no byte of it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mvqkd.errors import TeacherError
from mvqkd.teacher import ct2_reader
from mvqkd.teacher.ct2_reader import check_digest, find_embedded_model, read_ct2_model
from mvqkd.teacher.whisper import encoder_of_ct2


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(name: str, array: np.ndarray, type_id: int, *, size_bytes: int | None = None) -> bytes:
    shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    size_bytes = array.nbytes if size_bytes is None else size_bytes
    return string(name) + shape + struct.pack("<BI", type_id, size_bytes) + array.tobytes()


def model_file(variables: list[bytes], aliases: list[tuple[str, str]], *, version: int = 6) -> bytes:
    head = struct.pack("<I", version) + string("Spec") + struct.pack("<II", 3, len(variables))
    tail = struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases)
    return head + b"".join(variables) + tail


HALF = np.arange(6, dtype="<f2").reshape(2, 3)
HEADS = np.array(6, dtype="<i2")
GOOD = model_file([variable("w", HALF, 4), variable("heads", HEADS, 2)], [("tied", "w")])


def read(tmp_path: Path, data: bytes) -> ct2_reader.Ct2Model:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    return read_ct2_model(path)


def test_reads_arrays_scalars_and_aliases(tmp_path: Path) -> None:
    model = read(tmp_path, GOOD)
    assert (model.name, model.revision, set(model.variables)) == ("Spec", 3, {"w", "heads", "tied"})
    np.testing.assert_array_equal(model.variables["w"], HALF)
    assert model.variables["tied"] is model.variables["w"]
    assert int(model.variables["heads"]) == 6


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        with pytest.raises(TeacherError):
            read(tmp_path, GOOD[:size])


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (GOOD + b"\0", "1 bytes after the end"),
        (model_file([], [], version=5), "format version 5"),
        (model_file([variable("w", HALF, 5)], []), "of type 5"),
        (model_file([variable("w", HALF, 4)] * 2, []), "variable w twice"),
        (model_file([variable("w", HALF, 4, size_bytes=2**32 - 1)], []), "in 4294967295 bytes"),
        (model_file([variable("w", HALF, 0)], []), r"of shape \(2, 3\) and float32 in 12 bytes"),
        (model_file([], [("tied", "absent")]), "alias tied of absent"),
        (model_file([variable("é", HALF, 4)], []), "no terminated ASCII string"),
        # Sizes whose product is 2**64, which 64-bit arithmetic would take for 0.
        (struct.pack("<I", 6) + string("S") + struct.pack("<II", 3, 1) + string("w")
         + struct.pack("<B8IBI", 8, *[256] * 8, 1, 0), r"of shape \(256, .* in 0 bytes"),
    ],
    ids=["surplus", "version", "type", "twice", "size", "size-of-type", "alias", "name", "overflow"],
)  # fmt: skip
def test_contradictions_are_named(tmp_path: Path, data: bytes, got: str) -> None:
    with pytest.raises(TeacherError, match=got):
        read(tmp_path, data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="No such file"):
        read_ct2_model(tmp_path / "model.bin")


def test_the_embedded_model_is_found_and_whole() -> None:
    model = read_ct2_model(find_embedded_model() / "model.bin")
    assert model.name == "WhisperSpec"
    assert model.variables["encoder/conv1/weight"].shape == (384, 80, 3)
    assert model.variables["encoder/conv1/weight"].dtype == np.float16


def test_a_flipped_bit_of_the_embedded_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = find_embedded_model()
    altered = tmp_path / "model"
    altered.mkdir()
    for name in ct2_reader.MODEL_FILES_SHA256:
        data = bytearray((original / name).read_bytes())
        if name == "model.bin":
            data[40_000_000] ^= 1
        (altered / name).write_bytes(data)

    class Distribution:
        def locate_file(self, _path: str) -> Path:
            return altered

    monkeypatch.setattr(ct2_reader.importlib.metadata, "distribution", lambda _name: Distribution())
    with pytest.raises(TeacherError, match=r"model\.bin: expected sha256 1a5afae06a4db91c, got sha256 .*reinstall"):
        find_embedded_model()


def test_a_missing_weight_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="No such file or directory; do this"):
        check_digest(tmp_path / "model.bin", "0" * 64, next_step="do this")


def test_another_model_is_no_whisper_encoder(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="the variables of a Whisper encoder"):
        encoder_of_ct2("t", read(tmp_path, GOOD), 1)
