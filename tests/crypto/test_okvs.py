"""The key-value store: every key decodes, how often it fails, and its dimensions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto import okvs
from vfl.crypto.gf128 import Elements, scale_add
from vfl.crypto.okvs import Shape, decode, encode, group, shape
from vfl.errors import CryptoError

U32 = NDArray[np.uint32]


def elements(count: int, seed: int) -> Elements:
    return np.frombuffer(DeterministicRng(seed).bytes(16 * count), dtype="<u8").reshape(-1, 2).copy()


def stored(count: int, dims: Shape, seed: int = 1) -> tuple[Elements, Elements]:
    """Encode random values under random keys; return P and what the keys decode to, less their values."""
    hashes, values = elements(count, seed), elements(count, seed + 1)
    grouped = group(hashes, hashes, dims)
    vector, out = encode(grouped, values, dims, range(dims.bins)), np.empty_like(values)
    decode(grouped, vector, dims, range(dims.bins), out)
    return vector, out ^ values


class TestDecoding:
    @pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 1000, 70_000])
    def test_every_key_has_its_value(self, count: int) -> None:
        dims = shape(max(64, count))
        vector, differences = stored(count, dims)
        assert len(vector) == dims.size
        assert not differences.any()

    def test_many_bins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(okvs, "BIN", 1000)
        dims = shape.__wrapped__(20_000)
        assert dims.bins == 20
        assert not stored(20_000, dims)[1].any()

    def test_bins_one_by_one_or_all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(okvs, "BIN", 1000)
        dims = shape.__wrapped__(5000)
        hashes, values = elements(5000, 1), elements(5000, 2)
        grouped = group(hashes, hashes, dims)
        whole = encode(grouped, values, dims, range(dims.bins))
        parts = [encode(grouped, values, dims, range(b, b + 1)) for b in range(dims.bins)]
        assert np.array_equal(whole, np.concatenate(parts))

    def test_rows_put_aside_are_solved_by_the_dense_columns(self) -> None:
        """Close to the threshold most stores need them; all must decode all the same."""
        dims, needed = Shape(1, 300, 357, 12), 0
        for seed in range(0, 400, 2):
            try:
                vector, differences = stored(300, dims, seed)
            except CryptoError:
                continue
            assert not differences.any()
            needed += bool(vector[dims.columns :].any())
        assert needed > 100

    def test_decoding_is_linear(self) -> None:
        dims, keys = shape(500), elements(500, 1)
        grouped = group(keys, keys, dims)
        one, other, factor = elements(dims.size, 2), elements(dims.size, 3), elements(1, 4)
        decoded = []
        both = one.copy()
        scale_add(both, other, factor)
        for vector in (one, other, both):
            decoded.append(np.empty_like(keys))
            decode(grouped, vector, dims, range(1), decoded[-1])
        scale_add(decoded[0], decoded[1], factor)
        assert np.array_equal(decoded[0], decoded[2])

    def test_other_keys_decode_to_something_else(self) -> None:
        dims = shape(1000)
        hashes, values, others = elements(1000, 1), elements(1000, 2), elements(1000, 3)
        vector = encode(group(hashes, hashes, dims), values, dims, range(1))
        out = np.empty_like(values)
        decode(group(others, others, dims), vector, dims, range(1), out)
        assert (
            len(np.unique(np.concatenate([out, values]), axis=0)) > 1900
        )  # free columns are zero, so a few decode alike


class TestGrouping:
    def test_keeps_keys_together_and_remembers_their_places(self) -> None:
        dims = Shape(7, 1000, 1400, 2)
        hashes, keys = elements(3000, 1), elements(3000, 2)
        grouped = group(hashes, keys, dims)
        assert np.array_equal(grouped.keys, keys[grouped.order])
        assert np.array_equal(grouped.hashes, hashes[grouped.order])
        bins = ((grouped.hashes[:, 0] & 0xFFFFFFFF) * 7) >> 32
        assert np.array_equal(bins, np.sort(bins))
        assert np.array_equal(np.searchsorted(bins, np.arange(8)), grouped.starts)

    def test_columns_of_a_key_differ_and_are_balanced(self) -> None:
        hashes, columns = elements(200_000, 5), 10
        places: U32 = np.empty((len(hashes), 3), dtype=np.uint32)
        okvs._locate(hashes, columns, places)
        assert (np.sort(places, axis=1)[:, 1:] != np.sort(places, axis=1)[:, :-1]).all()
        triples = np.unique(np.sort(places, axis=1), axis=0, return_counts=True)[1]
        expected = len(hashes) / math.comb(10, 3)
        assert len(triples) == math.comb(10, 3)
        assert ((triples - expected) ** 2 / expected).sum() < 119 + 6 * math.sqrt(2 * 119)


class TestFailure:
    def test_too_many_rows_in_a_bin(self) -> None:
        with pytest.raises(CryptoError, match="overflows"):
            stored(101, Shape(1, 100, 300, 5))

    def test_repeated_keys(self) -> None:
        dims, keys = shape(64), elements(20, 1)
        keys[7] = keys[3]
        with pytest.raises(CryptoError, match="distinct"):
            encode(group(keys, keys, dims), elements(20, 2), dims, range(1))

    def test_more_rows_aside_than_dense_columns(self) -> None:
        dims, keys = Shape(1, 64, 210, 1), elements(64, 1)
        keys[7], keys[9] = keys[3], keys[5]
        with pytest.raises(CryptoError, match="distinct"):
            encode(group(keys, keys, dims), elements(64, 2), dims, range(1))

    @staticmethod
    def aside(keys: int, columns: int, trials: int) -> NDArray[np.int64]:
        """Return how many rows random stores put aside."""
        hashes = elements(keys * trials, 17)
        rows, pivots, aside = (np.empty(keys, dtype=np.uint32) for _ in range(3))
        places: U32 = np.empty((keys, 3), dtype=np.uint32)
        counts = []
        for trial in range(trials):
            okvs._locate(hashes[keys * trial : keys * (trial + 1)], columns, places)
            counts.append(okvs._peel(places, columns, rows, pivots, aside)[1])
        return np.array(counts)

    def test_the_paper_s_lines_bound_what_is_measured(self) -> None:
        """Figure 3 at 2^10 rows: beyond repeated rows, structures stay with probability 2^-lambda.

        The dimensions for lambda of 3, 6 and 9 bits come from the same formula as those for 41.
        """
        keys, trials = 1024, 6000
        slope = 2 ** (0.55 * 10 + 2.331)
        for bits in (3, 6, 9):
            columns = math.ceil(keys * (1.223 + (bits + 9.2) / slope))
            repeated = math.comb(keys, 2) / math.comb(columns, 3)  # expected pairs of equal rows
            stayed = (self.aside(keys, columns, trials) > 0).sum() / trials
            allowed = 2.0**-bits + repeated
            assert stayed <= allowed + 4 * math.sqrt(allowed / trials)

    def test_equal_rows_are_as_rare_as_said(self) -> None:
        """With columns to spare only equal rows stay: one pair with probability 3 / (e^3 n), two with its square."""
        keys, columns, trials = 64, 200, 60_000
        counts = self.aside(keys, columns, trials)
        expected = math.comb(keys, 2) / math.comb(columns, 3)
        ones, more = (counts == 1).mean(), (counts > 1).mean()
        assert abs(ones - expected) < 5 * math.sqrt(expected / trials) + 0.1 * expected
        assert more <= expected**2 + 5 / trials


class TestShape:
    def test_a_million(self) -> None:
        dims = shape(1 << 20)
        assert dims.size < 1.29 * (1 << 20)
        assert dims.bins == 16

    @pytest.mark.parametrize("keys", [64, 1000, 65_536, 1_000_000, 1 << 23])
    def test_holds_the_bits_that_the_module_states(self, keys: int) -> None:
        dims = shape(keys)
        bits = 41 + math.log2(dims.bins)
        e = dims.columns / dims.capacity
        assert (e - 1.223) * 2 ** (0.55 * math.log2(dims.capacity) + 2.331) - 9.2 >= bits - 1e-6
        assert (dims.dense + 1) * math.log2(dims.columns) > bits
        assert dims.capacity * dims.bins >= keys

    def test_capacity_by_the_exact_tail(self) -> None:
        """The binomial distribution itself, against Chernoff's bound."""
        from scipy.stats import binom

        for keys in (200_000, 1_000_000):
            dims = shape(keys)
            tail = binom.logsf(dims.capacity, keys, 1 / dims.bins) / math.log(2)
            assert tail + math.log2(dims.bins) < -41
            assert tail > -60  # not wasteful either
