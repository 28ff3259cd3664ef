"""The field of 2^255 - 19 and the Edwards curve behind ristretto255, eight points at a time, as vector code.

An element is five limbs of 51 bits; an array of uint64 of shape (5, 8) holds the same limb of eight elements in each
row, so that one vector instruction (AVX-512 IFMA) multiplies a limb of all eight. A limb product comes as its low and
its high 52 bits; the high half stands one bit too far left for the next limb and is doubled. Limbs of every result
are below 2^51 + 2^17, hence valid factors; a sum or difference is carried at once. All operations are the same
whatever the numbers are.

A point is an array of shape (4, 5, 8): X, Y, Z, T with x = X/Z, y = Y/Z, x y = T/Z. A point prepared for addition
holds Y - X, Y + X, 2 Z and 2 d T.

Sources: Bernstein et al., "High-speed high-security signatures", 2011 (the limbs); Gueron and Krasnov, WAIFI 2012
(products of 52 bits in vectors); Hisil, Wong, Carter, Dawson, "Twisted Edwards Curves Revisited", ASIACRYPT 2008,
sections 3.1 to 3.3 (the formulas, complete on this curve).
"""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "HALF", "LANES", "D", "P", "add_point", "add_to", "available", "double", "limbs", "multiply", "pick", "prepare",
    "square", "subtract",
]  # fmt: skip

LANES = 8
HALF = 8  # entries of a table: the multiples that a signed digit of four bits can ask for
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P

U64 = NDArray[np.uint64]
_BITS = 51
_LIMBS = 5
_VECTOR = ir.VectorType(ir.IntType(64), LANES)
_ZERO = ir.Constant(_VECTOR, [0] * LANES)
_FOUR_P = [4 * (2**_BITS - 19)] + [4 * (2**_BITS - 1)] * 4
Element = list[Any]  # five vectors


def available() -> bool:
    """Tell whether this processor has the instructions."""
    return bool(binding.get_host_cpu_features().get("avx512ifma"))


def limbs(number: int) -> list[int]:
    """Return the five limbs of an integer below 2^255."""
    return [number >> _BITS * i & ((1 << _BITS) - 1) for i in range(_LIMBS)]


class _Field:
    """Emits LLVM code on elements held in registers."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def constant(self, value: int) -> Any:
        return ir.Constant(_VECTOR, [value] * LANES)

    def load_vector(self, pointer: Any, place: int) -> Any:
        value = self.b.load(self.b.gep(pointer, [ir.Constant(ir.IntType(64), place)]))
        value.align = 8
        return value

    def load(self, pointer: Any, first: int = 0) -> Element:
        return [self.load_vector(pointer, first + i) for i in range(_LIMBS)]

    def store(self, pointer: Any, element: Element, first: int = 0) -> None:
        for i, value in enumerate(element):
            place = self.b.gep(pointer, [ir.Constant(ir.IntType(64), first + i)])
            self.b.store(value, place).align = 8

    def part(self, half: str, total: Any, x: Any, y: Any) -> Any:
        """Return total + the low ("l") or high ("h") 52 bits of x y, in each lane."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)  # type: ignore[no-untyped-call]
        return self.b.call(function, [total, x, y])

    def shifted(self, x: Any, left: int) -> Any:
        return self.b.shl(x, self.constant(left))

    def times19(self, x: Any) -> Any:
        return self.b.add(self.b.add(self.shifted(x, 4), self.shifted(x, 1)), x)

    def carried(self, x: Element) -> Element:
        """Pass what exceeds 51 bits of each limb, at most 2^12, to the next; the top one's comes back 19-fold."""
        carries = [self.b.lshr(limb, self.constant(_BITS)) for limb in x]
        low = [self.b.and_(limb, self.constant((1 << _BITS) - 1)) for limb in x]
        into = [self.times19(carries[-1]), *carries[:-1]]
        return [self.b.add(limb, carry) for limb, carry in zip(low, into, strict=True)]

    def add(self, x: Element, y: Element) -> Element:
        return self.carried([self.b.add(a, c) for a, c in zip(x, y, strict=True)])

    def subtract(self, x: Element, y: Element) -> Element:
        biased = [self.b.add(a, self.constant(bias)) for a, bias in zip(x, _FOUR_P, strict=True)]
        return self.carried([self.b.sub(a, c) for a, c in zip(biased, y, strict=True)])

    def folded(self, columns: list[Any]) -> Element:
        """Reduce ten columns below 2^56 to five limbs."""
        pairs = zip(columns[:_LIMBS], columns[_LIMBS:], strict=True)
        return self.carried([self.b.add(low, self.times19(high)) for low, high in pairs])

    def multiply(self, x: Element, y: Element) -> Element:
        low, high = [_ZERO] * 10, [_ZERO] * 10
        for i in range(_LIMBS):
            for j in range(_LIMBS):
                low[i + j] = self.part("l", low[i + j], x[i], y[j])
                high[i + j + 1] = self.part("h", high[i + j + 1], x[i], y[j])
        return self.folded([self.b.add(a, self.shifted(c, 1)) for a, c in zip(low, high, strict=True)])

    def square(self, x: Element) -> Element:
        low, high, cross_low, cross_high = ([_ZERO] * 10 for _ in range(4))
        for i in range(_LIMBS):
            low[2 * i] = self.part("l", low[2 * i], x[i], x[i])
            high[2 * i + 1] = self.part("h", high[2 * i + 1], x[i], x[i])
            for j in range(i + 1, _LIMBS):
                cross_low[i + j] = self.part("l", cross_low[i + j], x[i], x[j])
                cross_high[i + j + 1] = self.part("h", cross_high[i + j + 1], x[i], x[j])
        columns = []
        for k in range(10):
            doubled = self.b.add(self.b.add(high[k], cross_low[k]), self.shifted(cross_high[k], 1))
            columns.append(self.b.add(low[k], self.shifted(doubled, 1)))
        return self.folded(columns)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, position: int) -> Any:
    proxy = cgutils.create_struct_proxy(signature.args[position])  # type: ignore[no-untyped-call]
    array = proxy(context, builder, value=arguments[position])
    return builder.bitcast(array.data, _VECTOR.as_pointer())


def _emitted(generate: Any, *inputs: Any) -> tuple[Any, Any]:
    """Return an intrinsic's signature and code; `generate` gets the field and a pointer for each argument."""
    signature = types.void(*inputs)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = (_pointer(context, builder, signature, arguments, i) for i in range(len(inputs)))
        generate(_Field(builder), *places)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def _multiply(typing: Any, result: Any, x: Any, y: Any) -> Any:
    return _emitted(lambda f, r, a, c: f.store(r, f.multiply(f.load(a), f.load(c))), result, x, y)


@intrinsic
def _square(typing: Any, result: Any, x: Any) -> Any:
    return _emitted(lambda f, r, a: f.store(r, f.square(f.load(a))), result, x)


@intrinsic
def _add(typing: Any, result: Any, x: Any, y: Any) -> Any:
    return _emitted(lambda f, r, a, c: f.store(r, f.add(f.load(a), f.load(c))), result, x, y)


@intrinsic
def _subtract(typing: Any, result: Any, x: Any, y: Any) -> Any:
    return _emitted(lambda f, r, a, c: f.store(r, f.subtract(f.load(a), f.load(c))), result, x, y)


def _doubled(f: _Field, x: Element, y: Element, z: Element) -> tuple[Element, Element, Element, Element]:
    """Return E, F, G, H of the doubling: X = E F, Y = G H, Z = F G, T = E H."""
    a, b, c = f.square(x), f.square(y), f.square(z)
    h, g = f.add(a, b), f.subtract(a, b)
    e = f.subtract(h, f.square(f.add(x, y)))
    return e, f.add(g, [f.b.add(limb, limb) for limb in c]), g, h


def _double_code(f: _Field, point: Any) -> None:
    e, ff, g, h = _doubled(f, f.load(point), f.load(point, 5), f.load(point, 10))
    for place, (left, right) in enumerate(((e, ff), (g, h), (ff, g))):
        f.store(point, f.multiply(left, right), _LIMBS * place)


def _double_last_code(f: _Field, point: Any) -> None:
    e, ff, g, h = _doubled(f, f.load(point), f.load(point, 5), f.load(point, 10))
    for place, (left, right) in enumerate(((e, ff), (g, h), (ff, g), (e, h))):
        f.store(point, f.multiply(left, right), _LIMBS * place)


def _add_point_code(f: _Field, point: Any, prepared: Any) -> None:
    x, y, z, t = (f.load(point, _LIMBS * i) for i in range(4))
    a = f.multiply(f.subtract(y, x), f.load(prepared))
    b = f.multiply(f.add(y, x), f.load(prepared, 5))
    c, d = f.multiply(t, f.load(prepared, 15)), f.multiply(z, f.load(prepared, 10))
    e, ff, g, h = f.subtract(b, a), f.subtract(d, c), f.add(d, c), f.add(b, a)
    for place, (left, right) in enumerate(((e, ff), (g, h), (ff, g), (e, h))):
        f.store(point, f.multiply(left, right), _LIMBS * place)


def _prepare_code(f: _Field, result: Any, point: Any) -> None:
    x, y, z, t = (f.load(point, _LIMBS * i) for i in range(4))
    twice_d = [f.constant(limb) for limb in limbs(2 * D % P)]
    parts = (f.subtract(y, x), f.add(y, x), f.add(z, z), f.multiply(t, twice_d))
    for place, part in enumerate(parts):
        f.store(result, part, _LIMBS * place)


def _pick_code(f: _Field, chosen: Any, table: Any, digits: Any) -> None:
    """Read every entry and keep one by a mask; a negative digit swaps the first two parts and negates the last."""
    digit = f.load_vector(digits, 0)
    negative = f.b.icmp_signed("<", digit, f.constant(0))
    size = f.b.select(negative, f.b.sub(f.constant(0), digit), digit)
    kept = [f.constant(limb) for value in (1, 1, 2, 0) for limb in limbs(value)]
    for entry in range(HALF):
        equal = f.b.icmp_unsigned("==", size, f.constant(entry + 1))
        first = 4 * _LIMBS * entry
        kept = [f.b.select(equal, f.load_vector(table, first + i), old) for i, old in enumerate(kept)]
    parts = [kept[_LIMBS * i : _LIMBS * (i + 1)] for i in range(4)]
    swapped = [parts[1], parts[0], parts[2], f.subtract([f.constant(0)] * _LIMBS, parts[3])]
    for place, (plain, other) in enumerate(zip(parts, swapped, strict=True)):
        pairs = zip(other, plain, strict=True)
        f.store(chosen, [f.b.select(negative, new, old) for new, old in pairs], _LIMBS * place)


@intrinsic
def _pick(typing: Any, chosen: Any, table: Any, digits: Any) -> Any:
    return _emitted(_pick_code, chosen, table, digits)


@intrinsic
def _double(typing: Any, point: Any) -> Any:
    return _emitted(_double_code, point)


@intrinsic
def _double_last(typing: Any, point: Any) -> Any:
    return _emitted(_double_last_code, point)


@intrinsic
def _add_point(typing: Any, point: Any, prepared: Any) -> Any:
    return _emitted(_add_point_code, point, prepared)


@intrinsic
def _prepare(typing: Any, result: Any, point: Any) -> Any:
    return _emitted(_prepare_code, result, point)


@njit(nogil=True, cache=True)
def multiply(result: U64, x: U64, y: U64) -> None:
    """Set result = x y; all of shape (5, 8), `result` may be a factor."""
    _multiply(result, x, y)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def square(result: U64, x: U64, times: int) -> None:
    """Set result = x^(2^times), `times` at least 1."""
    _square(result, x)  # type: ignore[call-arg]
    for _ in range(times - 1):
        _square(result, result)


@njit(nogil=True, cache=True)
def add_to(result: U64, x: U64, y: U64) -> None:
    """Set result = x + y."""
    _add(result, x, y)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def subtract(result: U64, x: U64, y: U64) -> None:
    """Set result = x - y."""
    _subtract(result, x, y)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def double(point: U64, times: int) -> None:
    """Double a point `times` times, at least once; only the last doubling needs T."""
    for _ in range(times - 1):
        _double(point)  # type: ignore[call-arg]
    _double_last(point)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def add_point(point: U64, prepared: U64) -> None:
    """Add a prepared point to `point`."""
    _add_point(point, prepared)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def prepare(result: U64, point: U64) -> None:
    """Set result to what :func:`add_point` takes."""
    _prepare(result, point)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def pick(chosen: U64, table: U64, digits: NDArray[np.int64]) -> None:
    """Set `chosen` to each lane's digit in [-8, 8] times a point, from its prepared multiples 1 to 8."""
    _pick(chosen, table, digits)  # type: ignore[call-arg]
