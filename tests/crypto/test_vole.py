"""The correlation holds exactly; its parts are what the paper says; the noise weights follow from the formula."""

import math

import numpy as np
import pytest

from tests.crypto.test_ot import extended
from tests.support import DeterministicRng
from vfl.crypto import vole
from vfl.crypto.gf128 import Elements, element, product, scale_add
from vfl.crypto.vole import NOISE, WEIGHT, DeltaHolder, Plan, VectorHolder, plan

SEED = b"code"


def correlated(dims: Plan, seed: int = 1) -> tuple[DeltaHolder, VectorHolder]:
    receiver, sender = extended(seed)
    holder = VectorHolder(receiver, dims, DeterministicRng(seed), 1)
    other = DeltaHolder(sender, dims, DeterministicRng(seed + 1))
    answer = other.answer(holder.message, 1)
    other.accumulate(SEED)
    holder.finish(answer, SEED)
    return other, holder


def numbers(rows: Elements) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


class TestCorrelation:
    @pytest.mark.parametrize("size", [1, 64, 305, 1000, 20_000])
    def test_c_is_b_plus_a_delta(self, size: int) -> None:
        other, holder = correlated(plan(size))
        (a, c), b = holder.vectors(0, size), other.vector(0, size)
        scale_add(b, a, other.delta)
        assert np.array_equal(b, c)

    @pytest.mark.parametrize("leaves", [2, 3, 4, 5, 7, 8, 9, 17])
    def test_trees_of_any_number_of_leaves(self, leaves: int) -> None:
        other, holder = correlated(Plan(100, 40, leaves))
        (a, c), b = holder.vectors(0, 100), other.vector(0, 100)
        scale_add(b, a, other.delta)
        assert np.array_equal(b, c)

    def test_any_range_of_rows_at_any_time(self) -> None:
        other, holder = correlated(plan(1000))
        whole = other.vector(0, 1000)
        for first, end in ((0, 1), (1, 2), (3, 10), (997, 1000), (5, 990)):
            assert np.array_equal(other.vector(first, end), whole[first:end])
            assert np.array_equal(holder.vectors(first, end)[0], holder.vectors(0, 1000)[0][first:end])

    def test_leaves_agree_but_at_the_secret_places(self) -> None:
        dims = Plan(100, 40, 21)
        receiver, sender = extended()
        holder, other = (
            VectorHolder(receiver, dims, DeterministicRng(1), 1),
            DeltaHolder(sender, dims, DeterministicRng(2)),
        )
        answer = other.answer(holder.message, 1)
        holder.finish(answer, SEED)
        accumulated = holder._accumulated[:, :2].copy()
        theirs = other._leaves.copy()
        vole._accumulate(theirs)
        first = int(min(holder._noise.nodes * 40 + np.arange(40)))
        assert np.array_equal(accumulated[:first], theirs[:first])
        assert (accumulated[first:] != theirs[first:]).any(axis=1).all()  # from then on never equal again

    def test_a_is_the_code_s_word_of_the_noise(self) -> None:
        """By the definition of H: accumulate with theta, then sum WEIGHT places of the public draws."""
        dims = Plan(50, 20, 10)
        _, holder = correlated(dims)
        noise = np.zeros((200, 2), dtype=np.uint64)
        noise[holder._noise.nodes * 20 + np.arange(20)] = holder._noise.values
        theta, state, accumulated = element(1 << 47), element(0), []
        for row in noise:
            state = product(state, theta) ^ row.reshape(1, 2)
            accumulated.append(numbers(state)[0])
        draws = vole._Rows(SEED).draw(0, 50)
        wanted = [0] * 50
        for i in range(50):
            for draw in draws[i]:
                wanted[i] ^= accumulated[int(draw) * 200 >> 32]
        assert numbers(holder.vectors(0, 50)[0]) == wanted

    def test_delta_and_randomness_make_everything_anew(self) -> None:
        one, other = correlated(plan(64), 1), correlated(plan(64), 20)
        assert not np.array_equal(one[0].delta, other[0].delta)
        pairs = [
            one[0].vector(0, 64),
            other[0].vector(0, 64),
            one[1].vectors(0, 64)[0],
            other[1].vectors(0, 64)[0],
        ]
        assert len(np.unique(np.concatenate(pairs), axis=0)) == 4 * 64

    def test_a_is_balanced(self) -> None:
        _, holder = correlated(plan(20_000))
        a, _ = holder.vectors(0, 20_000)
        bits = np.unpackbits(a.view(np.uint8).reshape(-1, 16), axis=1).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 6 * 0.5 / math.sqrt(20_000)
        assert len(np.unique(a, axis=0)) == 20_000

    def test_noise_is_spread_over_its_groups(self) -> None:
        receiver, _ = extended()
        dims = Plan(100, 4000, 5)
        nodes = VectorHolder(receiver, dims, DeterministicRng(1), 1)._noise.nodes
        counts = np.bincount(nodes, minlength=5)
        assert len(counts) == 5
        assert np.abs(counts - 800).max() < 6 * math.sqrt(800 * 0.8)


def log2_comb(n: float, k: float) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def log2_beta(x: float, a: float, b: float) -> float:
    """Return the logarithm of the regularised incomplete beta function, by its series around 0."""
    term = total = 1.0
    for n in range(10_000):
        term *= (a + b + n) / (a + 1 + n) * x
        total += term
        if term < 1e-12 * total:
            break
    lead = a * math.log(x) + b * math.log(1 - x) - math.log(a)
    return (lead + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + math.log(total)) / math.log(2)


def log2_words(size: int, rows: int, delta: float) -> float:
    """Bound the expected number of sums of `rows` rows of H with weight below delta N.

    Their WEIGHT rows places cut the code's length; coefficients can be chosen so that rows - 1 of the intervals
    vanish; the others together are a beta variable.
    """
    hits = WEIGHT * rows
    return log2_comb(size, rows) + log2_comb(hits, rows - 1) + log2_beta(delta, hits - rows + 1, rows)


class TestParameters:
    ROWS = (*range(1, 120), 200, 500, 1000, 4000, 10_000)

    @pytest.mark.parametrize(("bits", "weight"), NOISE.items())
    def test_no_linear_test_beats_128_bits(self, bits: int, weight: int) -> None:
        size, delta = 1 << bits, 1 - 2 ** (-128 / weight)
        assert max(log2_words(size, u, delta) for u in self.ROWS if u <= size) < -5

    @pytest.mark.parametrize(("bits", "weight"), NOISE.items())
    def test_single_rows_rarely_miss_all_noise(self, bits: int, weight: int) -> None:
        """E (1 - x)^weight for the largest x of WEIGHT uniform places, times the rows: below 2^-50."""
        log2_missed = math.lgamma(WEIGHT + 1) + math.lgamma(weight + 1) - math.lgamma(WEIGHT + weight + 1)
        assert bits + log2_missed / math.log(2) < -50

    def test_light_rows_are_as_rare_as_the_formula_says(self) -> None:
        """The first term, u = 1, measured: no place beyond delta N."""
        draws = vole._Rows(SEED).draw(0, 200_000)
        for delta in (0.4, 0.5):
            light = (draws.max(axis=1) < delta * 2**32).sum()
            expected = 200_000 * delta**WEIGHT
            assert abs(light - expected) < 6 * math.sqrt(expected) + 1

    def test_theta_is_primitive(self) -> None:
        """x^47 generates the multiplicative group if x does, since 47 is prime to its order; x does."""
        order = 2**128 - 1
        factors = (3, 5, 17, 257, 641, 65537, 274177, 6700417, 67280421310721)
        assert math.prod(factors) == order
        assert math.gcd(47, order) == 1

        def power(x: Elements, exponent: int) -> Elements:
            result = element(1)
            while exponent:
                if exponent & 1:
                    result = product(result, x)
                x, exponent = product(x, x), exponent >> 1
            return result

        assert numbers(power(element(2), order)) == [1]
        assert all(numbers(power(element(2), order // factor)) != [1] for factor in factors)

    def test_dimensions(self) -> None:
        for size in (1, 100, 12345, 1_345_000, 1 << 25):
            dims = plan(size)
            assert dims.leaves * dims.trees >= 2 * size
            assert 1 << dims.depth >= dims.leaves > 1 << dims.depth - 1
            assert dims.trees >= 256  # information-set decoding at rate 1/2 costs 2^trees
