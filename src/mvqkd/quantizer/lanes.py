"""Sixteen float32 numbers as one value inside compiled code.

The compiler of numba vectorises plain loops well only where it can prove that arrays do not overlap; in the small,
irregular loops of the search it cannot. These operations say what is meant: one maps to one instruction with
AVX-512, to two with AVX2, to four with NEON. Addresses are plain integers: the caller keeps the arrays alive and in
bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, register_model

from mvqkd.quantizer.tables import LANES

FLOAT32_BYTES = 4

_BIT, _I16, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS, _MASK = (ir.VectorType(scalar, LANES) for scalar in (_F32, _I32, _BIT))
_Generator = Callable[[Any, Any, Any, Any], Any]


class LanesType(types.Type):
    """The type of sixteen float32; it lives in registers only."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


lanes = LanesType()


@register_model(LanesType)
class LanesModel(PrimitiveModel):
    """A vector of the LLVM language."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


@intrinsic
def load(_: Any, address: Any) -> tuple[Any, _Generator]:
    """Lanes from 64 bytes at an address."""
    return lanes(types.uintp), lambda _c, b, _s, args: b.load(_pointer(b, args[0], _FLOATS), align=FLOAT32_BYTES)


@intrinsic
def store(_: Any, address: Any, value: Any) -> tuple[Any, _Generator]:
    """Write lanes to 64 bytes at an address."""

    def generate(context: Any, b: Any, _s: Any, args: Any) -> Any:
        b.store(args[1], _pointer(b, args[0], _FLOATS), align=FLOAT32_BYTES)
        return context.get_dummy_value()

    return types.void(types.uintp, lanes), generate


@intrinsic
def scalar(_: Any, address: Any) -> tuple[Any, _Generator]:
    """The float32 at an address."""
    return types.float32(types.uintp), lambda _c, b, _s, args: b.load(_pointer(b, args[0], _F32), align=FLOAT32_BYTES)


@intrinsic
def splat(_: Any, value: Any) -> tuple[Any, _Generator]:
    """One float32 in every lane."""
    return lanes(types.float32), lambda _c, b, _s, args: _splat(b, args[0], _FLOATS)


@intrinsic
def add(_: Any, x: Any, y: Any) -> tuple[Any, _Generator]:
    """x + y."""
    return lanes(lanes, lanes), lambda _c, b, _s, args: b.fadd(args[0], args[1])


@intrinsic
def sub(_: Any, x: Any, y: Any) -> tuple[Any, _Generator]:
    """x - y."""
    return lanes(lanes, lanes), lambda _c, b, _s, args: b.fsub(args[0], args[1])


@intrinsic
def lower(_: Any, x: Any, y: Any) -> tuple[Any, _Generator]:
    """The lower of x and y in every lane."""

    def generate(_c: Any, b: Any, _s: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return lanes(lanes, lanes), generate


@intrinsic
def lowest(_: Any, x: Any) -> tuple[Any, _Generator]:
    """The lowest number of all lanes."""
    return types.float32(lanes), _reduction("fmin")


@intrinsic
def highest(_: Any, x: Any) -> tuple[Any, _Generator]:
    """The highest number of all lanes."""
    return types.float32(lanes), _reduction("fmax")


@intrinsic
def count_up_to(_: Any, x: Any, limit: Any) -> tuple[Any, _Generator]:
    """In how many lanes x <= limit."""

    def generate(_c: Any, b: Any, _s: Any, args: Any) -> Any:
        return _population(b, b.fcmp_ordered("<=", args[0], args[1]))

    return types.int64(lanes, lanes), generate


@intrinsic
def compress_up_to(_: Any, x: Any, limit: Any, first: Any, address: Any) -> tuple[Any, _Generator]:
    """Write ``first`` + lane number, uint32, of the lanes where x <= limit, one after the other; returns how many."""

    def generate(_c: Any, b: Any, _s: Any, args: Any) -> Any:
        mask = b.fcmp_ordered("<=", args[0], args[1])
        numbers = b.add(_splat(b, b.trunc(args[2], _I32), _INTS), ir.Constant(_INTS, list(range(LANES))))
        signature = ir.FunctionType(ir.VoidType(), [_INTS, ir.PointerType(_I32), _MASK])
        write = cgutils.get_or_insert_function(b.module, signature, f"llvm.masked.compressstore.v{LANES}i32")
        b.call(write, [numbers, _pointer(b, args[3], _I32), mask])
        return _population(b, mask)

    return types.int64(lanes, lanes, types.int64, types.uintp), generate


@intrinsic
def gather(_: Any, table: Any, positions: Any) -> tuple[Any, _Generator]:
    """table[position] for sixteen uint32 positions at an address. Single loads: faster than gather instructions."""

    def generate(_c: Any, b: Any, _s: Any, args: Any) -> Any:
        base, at = _pointer(b, args[0], _F32), _pointer(b, args[1], _I32)
        result = ir.Constant(_FLOATS, ir.Undefined)
        for lane in range(LANES):
            position = b.zext(b.load(b.gep(at, [ir.Constant(_I64, lane)]), align=FLOAT32_BYTES), _I64)
            value = b.load(b.gep(base, [position]), align=FLOAT32_BYTES)
            result = b.insert_element(result, value, ir.Constant(_I32, lane))
        return result

    return lanes(types.uintp, types.uintp), generate


@intrinsic
def transpose(_: Any, source: Any, source_width: Any, target: Any, target_width: Any) -> tuple[Any, _Generator]:
    """Transpose a 16 x 16 block; widths are the floats from one row of the arrays to the next."""

    def generate(context: Any, b: Any, _s: Any, args: Any) -> Any:
        rows = [b.load(address, align=FLOAT32_BYTES) for address in _rows(b, args[0], args[1])]
        for distance in (8, 4, 2, 1):  # rows that far apart swap the halves of every block of twice that size
            swapped = list(rows)
            for i in (i for i in range(LANES) if not i & distance):
                pair = rows[i], rows[i | distance]
                low = [j if not j & distance else (j ^ distance) + LANES for j in range(LANES)]
                high = [j | distance if not j & distance else j + LANES for j in range(LANES)]
                swapped[i] = b.shuffle_vector(*pair, ir.Constant(_INTS, low))
                swapped[i | distance] = b.shuffle_vector(*pair, ir.Constant(_INTS, high))
            rows = swapped
        for row, address in zip(rows, _rows(b, args[2], args[3]), strict=True):
            b.store(row, address, align=FLOAT32_BYTES)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.uintp, types.int64), generate


def _rows(b: Any, address: Any, width: Any) -> list[Any]:
    stride = b.mul(width, ir.Constant(_I64, FLOAT32_BYTES))
    return [_pointer(b, b.add(address, b.mul(stride, ir.Constant(_I64, row))), _FLOATS) for row in range(LANES)]


def _pointer(b: Any, address: Any, pointee: Any) -> Any:
    return b.inttoptr(address, ir.PointerType(pointee))


def _splat(b: Any, value: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(undefined, value, ir.Constant(_I32, 0))
    return b.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _population(b: Any, mask: Any) -> Any:
    return b.zext(b.ctpop(b.bitcast(mask, _I16)), _I64)


def _reduction(name: str) -> _Generator:
    def generate(_c: Any, b: Any, _s: Any, args: Any) -> Any:
        signature = ir.FunctionType(_F32, [_FLOATS])
        reduce = cgutils.get_or_insert_function(b.module, signature, f"llvm.vector.reduce.{name}.v{LANES}f32")
        return b.call(reduce, [args[0]], fastmath=("nnan",))

    return generate
