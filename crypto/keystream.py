"""AES-256-CTR key streams added to words in registers, on processors that have the AES instructions.

What a mask costs beside the cipher is moving its stream through memory. Here 8 vectors of counters at a time are
encrypted and added to the words at once; with the vector forms of the instructions (VAES) a vector holds 2 or 4 blocks.
Key schedules come from the key-schedule instruction, so no table is indexed by a secret anywhere, and no branch depends
on one. The interpreter lock is not held.

Sources: NIST FIPS 197 (AES; key expansion, section 5.2), SP 800-38A, section 6.5 (CTR; the counter block of block i
holds i, big-endian); Gueron, "Intel Advanced Encryption Standard (AES) New Instructions Set", 2010 (key expansion).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["add_streams", "available", "schedules"]

ROUNDS = 14
FLIGHT = 8  # vectors encrypted together: the instructions' latency over their throughput, rounded up
TILE = 1 << 14  # bytes of words that stay in the first cache while every stream is added
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BLOCK = ir.VectorType(_I64, 2)
_COLUMNS = ir.VectorType(_I32, 4)


def _lanes() -> int:
    """Return 64-bit lanes per vector on this processor: 2, 4 or 8; 0 without the instructions."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:
        return 0
    if not features.get("aes"):
        return 0
    if features.get("vaes") and features.get("avx512f"):
        return 8
    return 4 if features.get("vaes") and features.get("avx2") else 2


LANES = _lanes()
STEP = 8 * max(LANES, 2) * FLIGHT  # bytes per pass of the loop


def available() -> bool:
    """Tell whether this processor has the instructions."""
    return LANES > 0


def _call(builder: Any, name: str, kind: Any, arguments: list[Any]) -> Any:
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)  # type: ignore[no-untyped-call]


def _pointer(context: Any, builder: Any, kind: Any, value: Any, to: Any) -> Any:
    proxy = cgutils.create_struct_proxy(kind)  # type: ignore[no-untyped-call]
    return builder.bitcast(proxy(context, builder, value=value).data, to.as_pointer())


# --- key schedule


def _spread(builder: Any, key: Any) -> Any:
    """Return the four words k0, k0+k1, k0+k1+k2, k0+k1+k2+k3 (sums without carry)."""
    zero = ir.Constant(_COLUMNS, [0] * 4)
    total = key
    for shift in (1, 2, 3):
        picked = [4] * shift + list(range(4 - shift))
        moved = builder.shuffle_vector(key, zero, ir.Constant(_COLUMNS, picked))
        total = builder.xor(total, moved)
    return total


def _assisted(builder: Any, key: Any, constant: int, word: int) -> Any:
    """Return a word of the key-schedule instruction's result, in all places."""
    argument = builder.bitcast(key, _BLOCK)
    raw = _call(
        builder,
        "llvm.x86.aesni.aeskeygenassist",
        _BLOCK,
        [argument, ir.Constant(ir.IntType(8), constant)],
    )
    columns = builder.bitcast(raw, _COLUMNS)
    return builder.shuffle_vector(columns, columns, ir.Constant(_COLUMNS, [word] * 4))


@intrinsic
def _expand(typing: Any, keys: Any, schedule: Any, row: Any) -> Any:
    """Write the 15 round keys of keys[row] to schedule[row]."""
    signature = types.void(keys, schedule, row)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _pointer(context, builder, signature.args[0], arguments[0], _COLUMNS)
        target = _pointer(context, builder, signature.args[1], arguments[1], _COLUMNS)
        first = builder.mul(arguments[2], ir.Constant(_I64, 2))
        even, odd = (
            builder.load(builder.gep(source, [builder.add(first, ir.Constant(_I64, half))]), align=8)
            for half in (0, 1)
        )
        round_keys = [even, odd]
        for i in range(1, 8):
            even = builder.xor(_spread(builder, even), _assisted(builder, odd, 1 << (i - 1), 3))
            odd = builder.xor(_spread(builder, odd), _assisted(builder, even, 0, 2))
            round_keys += [even, odd]
        start = builder.mul(arguments[2], ir.Constant(_I64, ROUNDS + 1))
        for i, key in enumerate(round_keys[: ROUNDS + 1]):
            builder.store(key, builder.gep(target, [builder.add(start, ir.Constant(_I64, i))]), align=8)
        return context.get_dummy_value()

    return signature, generate


# --- streams


class _Emitter:
    """LLVM code that encrypts FLIGHT vectors of counters and adds them to words, again and again."""

    def __init__(self, builder: Any, word_bits: int) -> None:
        self.b, self.lanes = builder, LANES
        self.vector = ir.VectorType(_I64, LANES)
        self.words = ir.VectorType(ir.IntType(word_bits), LANES * 64 // word_bits)

    def round_key(self, pointer: Any, place: Any) -> Any:
        block = self.b.load(self.b.gep(pointer, [place]), align=8)
        picked = ir.Constant(ir.VectorType(_I32, self.lanes), [i % 2 for i in range(self.lanes)])
        return self.b.shuffle_vector(block, block, picked)

    def crypt(self, name: str, state: Any, key: Any) -> Any:
        suffix = {2: "", 4: ".256", 8: ".512"}[self.lanes]
        return _call(self.b, f"llvm.x86.aesni.{name}{suffix}", self.vector, [state, key])

    def counters(self, block: Any, vector: int) -> Any:
        """Return the counter blocks of one vector: zero, then the number of the block, big-endian."""
        state = ir.Constant(self.vector, [0] * self.lanes)
        for lane in range(1, self.lanes, 2):
            number = self.b.add(block, ir.Constant(_I64, vector * self.lanes // 2 + lane // 2))
            state = self.b.insert_element(state, number, ir.Constant(_I32, lane))
        return _call(self.b, f"llvm.bswap.v{self.lanes}i64", self.vector, [state])

    def stream(self, keys: list[Any], block: Any) -> list[Any]:
        states = [self.b.xor(self.counters(block, vector), keys[0]) for vector in range(FLIGHT)]
        for key in keys[1:-1]:
            states = [self.crypt("aesenc", state, key) for state in states]
        return [self.crypt("aesenclast", state, keys[-1]) for state in states]

    def loop(self, total: Any, keys: list[Any], block: Any, passes: Any, apply: str) -> None:
        b, before = self.b, self.b.block
        body, after = b.append_basic_block("streams"), b.append_basic_block("streams.end")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(_I64)
        number = b.add(block, b.mul(index, ir.Constant(_I64, FLIGHT * self.lanes // 2)))
        for vector, state in enumerate(self.stream(keys, number)):
            place = b.add(b.mul(index, ir.Constant(_I64, FLIGHT)), ir.Constant(_I64, vector))
            where = b.gep(total, [place])
            held = b.load(where, align=4)
            b.store(getattr(b, apply)(held, b.bitcast(state, self.words)), where, align=4)
        following = b.add(index, ir.Constant(_I64, 1))
        index.add_incoming(ir.Constant(_I64, 0), before)
        index.add_incoming(following, body)
        b.cbranch(b.icmp_unsigned("<", following, passes), body, after)
        b.position_at_end(after)


def _generator(apply: str) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emitter = _Emitter(builder, signature.args[0].dtype.bitwidth)
        total = _pointer(context, builder, signature.args[0], arguments[0], emitter.words)
        schedule = _pointer(context, builder, signature.args[1], arguments[1], _BLOCK)
        start = builder.mul(arguments[2], ir.Constant(_I64, ROUNDS + 1))
        keys = [
            emitter.round_key(schedule, builder.add(start, ir.Constant(_I64, i))) for i in range(ROUNDS + 1)
        ]
        emitter.loop(total, keys, arguments[3], arguments[4], apply)
        return context.get_dummy_value()

    return generate


@intrinsic
def _add(typing: Any, total: Any, schedule: Any, row: Any, block: Any, passes: Any) -> Any:
    """Add the stream of schedule[row] from a block on to `passes` * STEP bytes of words."""
    return types.void(total, schedule, row, block, passes), _generator("add")


@intrinsic
def _subtract(typing: Any, total: Any, schedule: Any, row: Any, block: Any, passes: Any) -> Any:
    """Subtract it."""
    return types.void(total, schedule, row, block, passes), _generator("sub")


@njit(nogil=True, cache=True)
def _expand_all(keys: Any, schedule: Any) -> None:
    for row in range(keys.shape[0]):
        _expand(keys, schedule, row)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _add_all(total: Any, schedule: Any, plus: int, block: int) -> None:
    """Add `plus` streams and subtract the others; `total` has a multiple of STEP bytes."""
    tile = TILE // total.itemsize
    for start in range(0, total.size, tile):
        part = total[start : start + tile]
        passes = part.size * part.itemsize // STEP
        first = block + start * total.itemsize // 16
        for row in range(schedule.shape[0]):
            if row < plus:
                _add(part, schedule, row, first, passes)  # type: ignore[call-arg]
            else:
                _subtract(part, schedule, row, first, passes)  # type: ignore[call-arg]


def schedules(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return the key schedules of keys of 32 bytes, shape (keys, 30)."""
    raw = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(len(keys), 4)
    schedule = np.empty((len(keys), 2 * (ROUNDS + 1)), dtype=np.uint64)
    _expand_all(raw.copy(), schedule)
    return schedule


def add_streams(total: NDArray[Any], schedule: NDArray[np.uint64], plus: int, first: int) -> None:
    """Add the first `plus` streams to words in place, and subtract the others.

    Parameters
    ----------
    total : ndarray of uint32 or uint64, contiguous
        Words `first`, `first` + 1, ... of a vector.
    schedule : ndarray of uint64, shape (streams, 30)
        From :func:`schedules`.
    plus : int
    first : int
        A multiple of the words in one block of 16 bytes.
    """
    block, whole = first * total.itemsize // 16, total.nbytes // STEP * STEP // total.itemsize
    if whole:
        _add_all(total[:whole], schedule, plus, block)
    if whole < total.size:
        rest = np.zeros(STEP // total.itemsize, dtype=total.dtype)
        rest[: total.size - whole] = total[whole:]
        _add_all(rest, schedule, plus, block + whole * total.itemsize // 16)
        total[whole:] = rest[: total.size - whole]
