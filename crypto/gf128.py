"""The field GF(2^128) of polynomials over GF(2) modulo x^128 + x^7 + x^2 + x + 1.

An element is a row of two uint64, the coefficients of x^0 .. x^63 first; addition is exclusive or. Products take the
processor's carry-less multiplication, which numba has no name for, so that one function emits it as LLVM code; where
it is missing they take integer multiplications of numbers with holes, which are as independent of the operands in
time and a dozen times slower. Nothing branches on an element or uses one as an index.

Sources: Gueron and Kounavis, "Intel Carry-Less Multiplication Instruction and its Usage for Computing the GCM Mode",
2010 (product and reduction, here without bit reflection). Pornin, "Constant-Time Mul", bearssl.org (holes).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.threads import run

__all__ = [
    "Elements",
    "add_product",
    "available",
    "element",
    "inverse",
    "product",
    "scale_add",
    "set_product",
]

Elements: TypeAlias = NDArray[np.uint64]

SHARED = 1 << 15
"""Elements from which on sharing simple work among processors pays: some 0.2 ms."""

_MODULUS = 0x87  # x^7 + x^2 + x + 1
_WORD = ir.IntType(64)
_PAIR = ir.VectorType(_WORD, 2)
_ZERO = ir.Constant(_PAIR, [0, 0])
_REDUCER = ir.Constant(_PAIR, [_MODULUS, 0])


def available() -> bool:
    """Tell whether this processor multiplies without carry."""
    return bool(binding.get_host_cpu_features().get("pclmul"))


def _half_product(b: Any, x: Any, y: Any, halves: int) -> Any:
    """Emit the 128-bit product of one half of each; bit 0 of `halves` chooses x's, bit 4 y's."""
    kind = ir.FunctionType(_PAIR, [_PAIR, _PAIR, ir.IntType(8)])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.pclmulqdq")  # type: ignore[no-untyped-call]
    return b.call(function, [x, y, ir.Constant(ir.IntType(8), halves)])


def _shuffle(b: Any, x: Any, first: int, second: int) -> Any:
    """Emit the pair of two of (low half, high half, zero)."""
    return b.shuffle_vector(x, _ZERO, ir.Constant(ir.VectorType(ir.IntType(32), 2), [first, second]))


def _emit_product(b: Any, x: Any, y: Any) -> Any:
    middle = b.xor(_half_product(b, x, y, 0x01), _half_product(b, x, y, 0x10))
    low = b.xor(_half_product(b, x, y, 0x00), _shuffle(b, middle, 2, 0))
    high = b.xor(_half_product(b, x, y, 0x11), _shuffle(b, middle, 1, 2))
    folded = _half_product(b, high, _REDUCER, 0x01)  # the top 64 bits, to be added 64 bits up
    low = b.xor(low, _shuffle(b, folded, 2, 0))
    high = b.xor(high, _shuffle(b, folded, 1, 2))
    return b.xor(low, _half_product(b, high, _REDUCER, 0x00))


def _row(context: Any, b: Any, kind: Any, array: Any, index: Any) -> Any:
    """Emit the address of a row of a contiguous array of shape (n, 2)."""
    proxy = cgutils.create_struct_proxy(kind)  # type: ignore[no-untyped-call]
    data = b.bitcast(proxy(context, b, value=array).data, _PAIR.as_pointer())
    return b.gep(data, [index])


def _on_rows(combine: Callable[[Any, Any, Any], Any]) -> Any:
    """Make an intrinsic out[i] = combine(out[i], x[j] y[k]) of three arrays of elements and an index in each."""

    @intrinsic
    def operation(typing: Any, out: Any, i: Any, x: Any, j: Any, y: Any, k: Any) -> Any:
        signature = types.void(out, types.int64, x, types.int64, y, types.int64)

        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            rows = [_row(context, b, kinds[p], arguments[p], arguments[p + 1]) for p in (0, 2, 4)]
            loaded = [b.load(row, align=8) for row in rows]
            b.store(combine(b, loaded[0], _emit_product(b, loaded[1], loaded[2])), rows[0], align=8)
            return context.get_dummy_value()

        return signature, generate

    return operation


@kernel
def _with_holes(x: Any, y: Any) -> Any:
    """Return the low 64 bits of a product without carry: three bits of four are empty and take the carries."""
    total = np.uint64(0)
    for shift in range(4):
        mask = np.uint64(0x1111111111111111) << np.uint64(shift)
        part = np.uint64(0)
        for i in range(4):
            left = x & (np.uint64(0x1111111111111111) << np.uint64(i))
            right = y & (np.uint64(0x1111111111111111) << np.uint64((shift - i) & 3))
            part ^= left * right
        total |= part & mask
    return total


@kernel
def _reverse(x: Any) -> Any:
    for shift, mask in (
        (np.uint64(1), np.uint64(0x5555555555555555)),
        (np.uint64(2), np.uint64(0x3333333333333333)),
        (np.uint64(4), np.uint64(0x0F0F0F0F0F0F0F0F)),
        (np.uint64(8), np.uint64(0x00FF00FF00FF00FF)),
        (np.uint64(16), np.uint64(0x0000FFFF0000FFFF)),
        (np.uint64(32), np.uint64(0x00000000FFFFFFFF)),
    ):
        x = ((x >> shift) & mask) | ((x & mask) << shift)
    return x


@kernel
def _wide(x: Any, y: Any) -> Any:
    """Return the low and the high half of a product of 64 bits by 64 without carry."""
    return _with_holes(x, y), _reverse(_with_holes(_reverse(x), _reverse(y))) >> np.uint64(1)


@kernel
def _portable(x0: Any, x1: Any, y0: Any, y1: Any) -> Any:
    low0, low1 = _wide(x0, y0)
    high0, high1 = _wide(x1, y1)
    middle0, middle1 = _wide(x0 ^ x1, y0 ^ y1)
    low1, high0 = low1 ^ middle0 ^ low0 ^ high0, high0 ^ middle1 ^ low1 ^ high1
    over = (high1 >> np.uint64(63)) ^ (high1 >> np.uint64(62)) ^ (high1 >> np.uint64(57))
    high0 ^= over
    low0 ^= high0 ^ (high0 << np.uint64(1)) ^ (high0 << np.uint64(2)) ^ (high0 << np.uint64(7))
    low1 ^= (high0 >> np.uint64(63)) ^ (high0 >> np.uint64(62)) ^ (high0 >> np.uint64(57))
    low1 ^= high1 ^ (high1 << np.uint64(1)) ^ (high1 << np.uint64(2)) ^ (high1 << np.uint64(7))
    return low0, low1


@kernel
def _portable_add(out: Any, i: Any, x: Any, j: Any, y: Any, k: Any) -> None:
    low, high = _portable(x[j, 0], x[j, 1], y[k, 0], y[k, 1])
    out[i, 0] ^= low
    out[i, 1] ^= high


@kernel
def _portable_set(out: Any, i: Any, x: Any, j: Any, y: Any, k: Any) -> None:
    out[i, 0], out[i, 1] = _portable(x[j, 0], x[j, 1], y[k, 0], y[k, 1])


# For kernels: out[i] += x[j] y[k] and out[i] = x[j] y[k], all three contiguous arrays of shape (n, 2).
add_product = _on_rows(lambda b, before, new: b.xor(before, new)) if available() else _portable_add
set_product = _on_rows(lambda b, before, new: new) if available() else _portable_set


@kernel
def _scale_add(out: Any, x: Any, factor: Any) -> None:
    for i in range(x.shape[0]):
        add_product(out, i, x, i, factor, 0)


def scale_add(out: Elements, x: Elements, factor: Elements) -> None:
    """Add `factor` times each element of `x` to `out`, in place, on all processors.

    Parameters
    ----------
    out, x : ndarray of uint64, shape (n, 2), contiguous
    factor : ndarray of uint64, shape (1, 2)
    """
    threads = None if len(x) >= SHARED else 1
    run(lambda first, end: _scale_add(out[first:end], x[first:end], factor), len(x), threads)


def element(number: int) -> Elements:
    """Return the element whose coefficients are the bits of a number below 2^128, shape (1, 2)."""
    return np.frombuffer(number.to_bytes(16, "little"), dtype="<u8").reshape(1, 2).copy()


def product(x: Elements, y: Elements) -> Elements:
    """Return the product of two elements of shape (1, 2)."""
    out = np.zeros((1, 2), dtype=np.uint64)
    _scale_add(out, x, y)
    return out


def inverse(x: Elements) -> Elements:
    """Return 1/x for an element of shape (1, 2): x^(2^128 - 2); zero has none and gives zero."""
    result, power = element(1), x
    for _ in range(127):
        power = product(power, power)
        result = product(result, power)
    return result
