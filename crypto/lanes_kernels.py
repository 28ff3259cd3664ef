"""Montgomery products of eight numbers at a time, on processors that multiply 52-bit integers in vectors.

A number of L limbs of 52 bits is a column of an array of uint64 of shape (L, 8): one vector holds the same limb of
eight numbers. A limb product is two instructions, one for its low and one for its high 52 bits, and sums of limb
products have 12 bits to spare, so carries wait until the end. Every function here does the same operations whatever
the numbers are; only the gathers of :func:`table_products` and :func:`bin_products` depend on their indices.

The vector instruction (AVX-512 IFMA) has no name in numba, so one function emits it as LLVM code.

Sources: Montgomery, "Modular Multiplication Without Trial Division", Mathematics of Computation 44, 1985. Gueron and
Krasnov, "Software Implementation of Modular Exponentiation, Using Advanced Vector Instructions Architectures", WAIFI
2012 (redundant limbs, one number per lane or several). Almost-Montgomery numbers: with 2^(52 L) > 4 m and factors
below 2 m the result is below 2 m, so no product ends in a subtraction.
"""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "LANES", "LIMB_BITS", "ROWS", "available", "bin_products", "multiply_rows", "powers", "square", "table_products",
    "weigh", "window_table",
]  # fmt: skip

LANES = 8
LIMB_BITS = 52
ROWS = 4  # limbs of the second factor taken at a time; L must be a multiple, at least twice as much
WINDOW = 5  # bits of an exponent taken at a time

U64 = NDArray[np.uint64]
_MASK = np.uint64((1 << LIMB_BITS) - 1)
_SHIFT = np.uint64(LIMB_BITS)
_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)
_ZERO = ir.Constant(_VECTOR, [0] * LANES)


def available() -> bool:
    """Tell whether this processor has the instructions."""
    return bool(binding.get_host_cpu_features().get("avx512ifma"))


class _Emitter:
    """LLVM code of one pass over the limbs: four rows of the schoolbook product, reduced."""

    def __init__(self, builder: Any, total: Any, left: Any, modulus: Any) -> None:
        self.b, self.total, self.left, self.modulus = builder, total, left, modulus
        self.factors: list[Any] = []
        self.quotients: list[Any] = []

    def load(self, pointer: Any, index: Any) -> Any:
        value = self.b.load(self.b.gep(pointer, [index]))
        value.align = 8
        return value

    def store(self, value: Any, index: Any) -> None:
        self.b.store(value, self.b.gep(self.total, [index])).align = 8

    def add(self, half: str, total: Any, x: Any, y: Any) -> Any:
        """Return total + the low ("l") or high ("h") 52 bits of x y, in each lane."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)  # type: ignore[no-untyped-call]
        return self.b.call(function, [total, x, y])

    def column(self, start: Any, lefts: list[Any], moduli: list[Any]) -> Any:
        """Return one limb of start + left * factors + modulus * quotients.

        `lefts[r]` and `moduli[r]` are the limbs r places below the column, None beyond the ends.
        """
        one, two = start, _ZERO
        for r in range(ROWS):
            if lefts[r] is not None:
                one = self.add("l", one, lefts[r], self.factors[r])
                two = self.add("l", two, moduli[r], self.quotients[r])
            if lefts[r + 1] is not None:
                one = self.add("h", one, lefts[r + 1], self.factors[r])
                two = self.add("h", two, moduli[r + 1], self.quotients[r])
        return self.b.add(one, two)

    def lowest(self, inverse: Any) -> tuple[list[Any], list[Any]]:
        """Find the quotients that make the lowest limbs vanish; carry into the next. Returns limbs read."""
        index = [ir.Constant(_WORD, c) for c in range(ROWS + 1)]
        lefts = [self.load(self.left, index[c]) for c in range(ROWS)]
        moduli = [self.load(self.modulus, index[c]) for c in range(ROWS)]
        carry = _ZERO
        for c in range(ROWS):
            limb = self.b.add(self.load(self.total, index[c]), carry)
            for r in range(c + 1):
                limb = self.add("l", limb, lefts[c - r], self.factors[r])
                if r < c:
                    limb = self.add("l", limb, moduli[c - r], self.quotients[r])
                    limb = self.add("h", limb, lefts[c - r - 1], self.factors[r])
                    limb = self.add("h", limb, moduli[c - r - 1], self.quotients[r])
            self.quotients.append(self.add("l", _ZERO, limb, inverse))
            limb = self.add("l", limb, moduli[0], self.quotients[c])
            carry = self.b.lshr(limb, ir.Constant(_VECTOR, [LIMB_BITS] * LANES))
        self.store(self.b.add(self.load(self.total, index[ROWS]), carry), index[ROWS])
        return lefts[::-1], moduli[::-1]

    def middle(self, size: Any, lefts: list[Any], moduli: list[Any]) -> tuple[list[Any], list[Any]]:
        """Emit the loop over limbs ROWS .. size - 1, the last limbs read kept in registers."""
        b, before = self.b, self.b.block
        loop, after = b.append_basic_block("limbs"), b.append_basic_block("limbs.end")
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(_WORD)
        kept = [b.phi(_VECTOR) for _ in range(2 * ROWS)]
        left, modulus = self.load(self.left, index), self.load(self.modulus, index)
        limb = self.column(self.load(self.total, index), [left, *kept[:ROWS]], [modulus, *kept[ROWS:]])
        self.store(limb, b.sub(index, ir.Constant(_WORD, ROWS)))
        following = b.add(index, ir.Constant(_WORD, 1))
        moved = [left, *kept[: ROWS - 1], modulus, *kept[ROWS:-1]]
        index.add_incoming(ir.Constant(_WORD, ROWS), before)
        index.add_incoming(following, loop)
        for phi, first, then in zip(kept, lefts + moduli, moved, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        b.cbranch(b.icmp_unsigned("<", following, size), loop, after)
        b.position_at_end(after)
        return moved[:ROWS], moved[ROWS:]

    def highest(self, size: Any, lefts: list[Any], moduli: list[Any]) -> None:
        """Emit the limbs above the top of the factors."""
        for c in range(ROWS):
            lefts, moduli = [None, *lefts[:ROWS]], [None, *moduli[:ROWS]]
            self.store(self.column(_ZERO, lefts, moduli), self.b.sub(size, ir.Constant(_WORD, ROWS - c)))


@intrinsic
def _pass(
    typing: Any, total: Any, left: Any, right: Any, row: Any, modulus: Any, inverse: Any, size: Any
) -> Any:
    """Do total = (total + left * right[row : row + ROWS] + modulus * quotients) / 2^(52 ROWS)."""
    signature = types.void(total, left, right, row, modulus, inverse, size)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(position: int) -> Any:
            proxy = cgutils.create_struct_proxy(signature.args[position])  # type: ignore[no-untyped-call]
            array = proxy(context, builder, value=arguments[position])
            return builder.bitcast(array.data, _VECTOR.as_pointer())

        emitter = _Emitter(builder, pointer(0), pointer(1), pointer(4))
        places = [builder.add(arguments[3], ir.Constant(_WORD, r)) for r in range(ROWS)]
        emitter.factors = [emitter.load(pointer(2), place) for place in places]
        first = builder.insert_element(_ZERO, arguments[5], ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        limbs = emitter.lowest(builder.shuffle_vector(first, _ZERO, everywhere))
        emitter.highest(arguments[6], *emitter.middle(arguments[6], *limbs))
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=True)
def multiply(total: U64, left: U64, right: U64, modulus: U64, inverse: np.uint64) -> None:
    """Set total to left * right / 2^(52 L) modulo the modulus; all of shape (L, LANES), `total` apart."""
    size = left.shape[0]
    total.fill(0)
    for row in range(0, size, ROWS):
        _pass(total, left, right, row, modulus, inverse, size)  # type: ignore[call-arg]
    carry = np.zeros(LANES, np.uint64)
    for limb in range(size):
        for lane in range(LANES):
            value = total[limb, lane] + carry[lane]
            total[limb, lane] = value & _MASK
            carry[lane] = value >> _SHIFT


@njit(nogil=True, cache=True)
def multiply_rows(
    total: U64, left: U64, right: U64, step: int, start: int, stop: int, modulus: U64, inverse: np.uint64
) -> None:
    """Set total[i] to left[i] * right[step * i] / 2^(52 L) for i in [start, stop); arrays of shape (count, L)."""
    one, two, product = np.empty_like(modulus), np.empty_like(modulus), np.empty_like(modulus)
    for row in range(start, stop, LANES):
        for lane in range(LANES):
            place = min(row + lane, stop - 1)
            for limb in range(modulus.shape[0]):
                one[limb, lane] = left[place, limb]
                two[limb, lane] = right[step * place, limb]
        multiply(product, one, two, modulus, inverse)
        for lane in range(min(LANES, stop - row)):
            for limb in range(modulus.shape[0]):
                total[row + lane, limb] = product[limb, lane]


@njit(nogil=True, cache=True)
def square(number: U64, times: int, modulus: U64, inverse: np.uint64) -> U64:
    """Return number^(2^times), in Montgomery form like the number."""
    one, two = number.copy(), np.empty_like(number)
    for _ in range(times):
        multiply(two, one, one, modulus, inverse)
        one, two = two, one
    return one


@njit(nogil=True, cache=True)
def powers(base: U64, windows: NDArray[np.uint8], unit: U64, modulus: U64, inverse: np.uint64) -> U64:
    """Return base^e for the e with these windows, highest first; time and addresses depend on their count alone.

    Every entry of the table is read for every window, and the one that is meant kept by a mask.
    """
    table = np.empty((1 << WINDOW, base.shape[0], LANES), np.uint64)
    multiply(table[0], unit, unit, modulus, inverse)
    for entry in range(1, 1 << WINDOW):
        multiply(table[entry], table[entry - 1], base, modulus, inverse)
    one, two, chosen = unit.copy(), np.empty_like(base), np.empty_like(base)
    for window in windows:
        for _ in range(WINDOW):
            multiply(two, one, one, modulus, inverse)
            one, two = two, one
        chosen.fill(0)
        for entry in range(1 << WINDOW):
            difference = np.uint64(entry ^ window)
            mask = ((difference | (~difference + np.uint64(1))) >> np.uint64(63)) - np.uint64(1)
            for limb in range(base.shape[0]):
                for lane in range(LANES):
                    chosen[limb, lane] |= table[entry, limb, lane] & mask
        multiply(two, one, chosen, modulus, inverse)
        one, two = two, one
    return one


@njit(nogil=True, cache=True)
def window_table(bases: U64, size: int, unit: U64, modulus: U64, inverse: np.uint64) -> U64:
    """Return the powers 0 .. size - 1 of LANES bases, shape (LANES, size, L)."""
    table = np.empty((LANES, size, bases.shape[0]), np.uint64)
    one, two = unit.copy(), np.empty_like(unit)
    for entry in range(size):
        for lane in range(LANES):
            for limb in range(unit.shape[0]):
                table[lane, entry, limb] = one[limb, lane]
        multiply(two, one, bases, modulus, inverse)
        one, two = two, one
    return table


@njit(nogil=True, cache=True)
def table_products(table: U64, digits: NDArray[np.uint8], unit: U64, modulus: U64, inverse: np.uint64) -> U64:
    """Return for each lane the product over i of table[i, digits[lane, i]], shape (L, LANES)."""
    one, two, chosen = unit.copy(), np.empty_like(unit), np.empty_like(unit)
    for position in range(table.shape[0]):
        for lane in range(LANES):
            entry = table[position, digits[lane, position]]
            for limb in range(entry.shape[0]):
                chosen[limb, lane] = entry[limb]
        multiply(two, one, chosen, modulus, inverse)
        one, two = two, one
    return one


@njit(nogil=True, cache=True)
def bin_products(
    numbers: U64,
    first: NDArray[np.int64],
    bins: NDArray[np.int16],
    size: int,
    unit: U64,
    modulus: U64,
    inverse: np.uint64,
) -> U64:
    """Return for each lane its numbers multiplied into its bins, shape (LANES, size + 1, L).

    Lane l takes numbers[first[l] + i] into bin bins[l, i]; bin -1 is the last, which holds what belongs nowhere.
    """
    product, number, result = np.empty_like(unit), np.empty_like(unit), np.empty_like(unit)
    buckets = np.empty((LANES, size + 1, unit.shape[0]), np.uint64)
    for lane in range(LANES):
        for entry in range(size + 1):
            for limb in range(unit.shape[0]):
                buckets[lane, entry, limb] = unit[limb, lane]
    for row in range(bins.shape[1]):
        for lane in range(LANES):
            bucket, source = buckets[lane, bins[lane, row]], numbers[first[lane] + row]
            for limb in range(unit.shape[0]):
                product[limb, lane] = bucket[limb]
                number[limb, lane] = source[limb]
        multiply(result, product, number, modulus, inverse)
        for lane in range(LANES):
            bucket = buckets[lane, bins[lane, row]]
            for limb in range(unit.shape[0]):
                bucket[limb] = result[limb, lane]
    return buckets


@njit(nogil=True, cache=True)
def weigh(buckets: U64, start: int, stop: int, unit: U64, modulus: U64, inverse: np.uint64) -> U64:
    """Return for each lane the product over d of buckets[lane, start + d - 1]^d, shape (L, LANES)."""
    running, total, result = unit.copy(), unit.copy(), np.empty_like(unit)
    number = np.empty_like(unit)
    for entry in range(stop - 1, start - 1, -1):
        for lane in range(LANES):
            for limb in range(unit.shape[0]):
                number[limb, lane] = buckets[lane, entry, limb]
        multiply(result, running, number, modulus, inverse)
        running, result = result, running
        multiply(result, total, running, modulus, inverse)
        total, result = result, total
    return total
