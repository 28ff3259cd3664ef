"""Packed inner products: exact, masked for the key holder, one digit for the evaluator."""

from typing import Any

import numpy as np
import pytest
from gmpy2 import next_prime
from numpy.typing import NDArray
from scipy import stats

from tests.paillier_keys import VECTORS, primes, private_key
from tests.support import DeterministicRng
from vfl.crypto.fixedpoint import decode
from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.crypto.packing import MASK_BITS, Masks, PaillierEvaluator, PaillierKeyHolder, _Layout
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.rng import Rng, SystemRng
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey, MalformedMessage

FORMAT = Format(max_rows=20, residual_bound=2.0)
FloatArray = NDArray[np.float64]


def parties(format: Format = FORMAT, bits: int = 1024) -> tuple[PaillierKeyHolder, PaillierEvaluator]:
    key = private_key(bits)
    return PaillierKeyHolder(format, key), PaillierEvaluator(format, key.public_key)


def over_the_wire(ciphertexts: FreshCiphertexts) -> ReceivedCiphertexts:
    return ReceivedCiphertexts(ciphertexts.to_bytes())


def exchange(
    holder: PaillierKeyHolder,
    evaluator: PaillierEvaluator,
    matrix: FloatArray,
    residuals: FloatArray,
    rng: Rng,
) -> tuple[bytes, bytes, bytes, Masks]:
    """Run one exchange; return the encrypted vector, the reply, what was opened and the masks."""
    prepared = evaluator.prepare(matrix)
    vector = over_the_wire(holder.encrypt(residuals, rng))
    products, masks = evaluator.masked_products(vector, prepared, rng)
    reply = over_the_wire(products)
    return vector.to_bytes(), reply.to_bytes(), holder.open_masked(reply, matrix.shape[1]), masks


def exact_products(matrix: FloatArray, residuals: FloatArray, format: Format) -> list[int]:
    """The same inner product in Python integers, rounding as the format says."""
    x = [[round(float(entry) * 2**format.matrix_bits) for entry in row] for row in matrix]
    r = [round(float(residual) * 2**format.residual_bits) for residual in residuals]
    return [sum(r[i] * x[i][j] for i in range(len(r))) for j in range(matrix.shape[1])]


def frozen() -> dict[str, Any]:
    """Run one exchange; the frozen result is in the vectors."""
    holder, evaluator = parties()
    generator = np.random.default_rng(7)
    matrix, residuals = generator.uniform(-1, 1, (11, 2)).round(6), generator.uniform(-2, 2, 11).round(6)
    vector, reply, opened, masks = exchange(
        holder, evaluator, matrix, residuals, DeterministicRng(b"packed known answer")
    )
    return {
        "format": {"max_rows": 20, "residual_bound": 2.0, "residual_bits": 24, "matrix_bits": 20},
        "matrix": matrix.tolist(),
        "residuals": residuals.tolist(),
        "vector": vector.hex(),
        "reply": reply.hex(),
        "opened": opened.hex(),
        "products": evaluator.unmask_integers(opened, masks),
    }


def test_known_answer() -> None:
    assert frozen() == VECTORS["packed"]


def test_the_known_answer_is_the_inner_product() -> None:
    case = VECTORS["packed"]
    matrix, residuals = np.array(case["matrix"]), np.array(case["residuals"])
    assert case["products"] == exact_products(matrix, residuals, FORMAT)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 19, 20])
@pytest.mark.parametrize("columns", [1, 3])
def test_products_are_exact_whatever_the_padding(rows: int, columns: int) -> None:
    holder, evaluator = parties()
    assert holder._layout.slots == 4
    generator = np.random.default_rng(rows)
    matrix, residuals = generator.uniform(-1, 1, (rows, columns)), generator.uniform(-2, 2, rows)
    vector, reply, opened, masks = exchange(holder, evaluator, matrix, residuals, DeterministicRng(rows))
    expected = exact_products(matrix, residuals, FORMAT)
    assert evaluator.unmask_integers(opened, masks) == expected
    np.testing.assert_array_equal(evaluator.unmask(opened, masks), decode(expected, 44))
    np.testing.assert_allclose(evaluator.unmask(opened, masks), matrix.T @ residuals, atol=rows * 2e-6)
    assert len(vector) == evaluator.vector_bytes(rows) == -(-rows // 4) * 256
    assert len(reply) == evaluator.reply_bytes(columns) == columns * 256
    assert len(opened) == evaluator.opened_bytes(columns)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_products_at_the_proved_bound(sign: float) -> None:
    holder, evaluator = parties()
    matrix, residuals = np.ones((20, 1)), np.full(20, 2.0 * sign)
    *_, opened, masks = exchange(holder, evaluator, matrix, residuals, DeterministicRng(1))
    assert evaluator.unmask_integers(opened, masks) == [int(sign) * evaluator._layout.bound]
    assert evaluator.unmask(opened, masks).tolist() == [40.0 * sign]


@pytest.mark.parametrize("draw", ["lowest", "highest"])
def test_digits_never_carry_at_the_ends_of_the_masks(draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(rng: Rng, count: int) -> int:
        return 0 if draw == "lowest" else (1 << count) - 1

    holder, evaluator = parties()
    monkeypatch.setattr(DeterministicRng, "bits", ends, raising=False)
    for sign in (1.0, -1.0):
        matrix, residuals = np.ones((20, 1)), np.full(20, 2.0 * sign)
        *_, opened, masks = exchange(holder, evaluator, matrix, residuals, DeterministicRng(1))
        assert evaluator.unmask(opened, masks).tolist() == [40.0 * sign]


@pytest.mark.parametrize(
    ("format", "bits"),
    [
        (Format(1, 1.0), 512),
        (Format(24_000, 1.0), 512),
        (Format(1, 1.0), 1024),
        (Format(10**6, 100.0), 1024),
        (Format(24_000, 1.0), 2048),
        (Format(10**8, 1000.0, 30, 30), 2048),
    ],
)
def test_the_layout_leaves_room_for_every_digit(format: Format, bits: int) -> None:
    layout = _Layout(format, private_key(bits).public_key)
    bound = format.max_rows * round(format.residual_bound * 2**format.residual_bits) * 2**format.matrix_bits
    assert layout.bound == bound
    assert 2**layout.mask_bits >= 2 * bound * 2**MASK_BITS  # masks hide the digit
    highest = 2 * bound + 2**layout.mask_bits - 1
    assert highest < 2**layout.digit_bits  # no carry
    total = layout.join([highest] * (2 * layout.slots - 1))
    assert total <= private_key(bits).public_key.limit  # no wrap
    with_one_more = layout.digit_bits * (2 * layout.slots + 1)
    assert 2**with_one_more > private_key(bits).public_key.limit  # and no slot wasted


def test_the_evaluator_starts_from_the_peers_bytes() -> None:
    key = private_key(2048)
    holder = PaillierKeyHolder(FORMAT, key)
    evaluator = PaillierEvaluator.from_public(FORMAT, holder.public_bytes)
    *_, opened, masks = exchange(
        holder, evaluator, np.eye(3), np.array([0.5, -1.25, 2.0]), DeterministicRng(1)
    )
    assert evaluator.unmask(opened, masks).tolist() == [0.5, -1.25, 2.0]
    with pytest.raises(InvalidKey, match="1024 bits; 2048 to 8192"):
        PaillierEvaluator.from_public(FORMAT, private_key(1024).public_key.to_bytes())


# --- bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [2.1, -2.1, np.nan, np.inf])
def test_a_residual_beyond_the_bound_is_refused(bad: float) -> None:
    holder, _ = parties()
    with pytest.raises(EncodingOverflow, match=r"1 of 3 values.*bound 2\.0"):
        holder.encrypt(np.array([0.0, bad, 0.0]), DeterministicRng(1))


@pytest.mark.parametrize("bad", [1.1, -1.1, np.nan, np.inf])
def test_an_entry_beyond_one_is_refused(bad: float) -> None:
    _, evaluator = parties()
    with pytest.raises(EncodingOverflow, match=r"1 of 4 values.*bound 1\.0"):
        evaluator.prepare(np.array([[0.0, bad], [0.0, 0.0]]))


@pytest.mark.parametrize("rows", [0, 21])
def test_rows_beyond_the_agreed_number_are_refused(rows: int) -> None:
    holder, evaluator = parties()
    text = f"{rows} rows, but the agreed bound covers 1 to 20"
    with pytest.raises(EncodingOverflow, match=text):
        holder.encrypt(np.zeros(rows), DeterministicRng(1))
    with pytest.raises(EncodingOverflow, match=text):
        evaluator.prepare(np.zeros((rows, 2)))
    with pytest.raises(EncodingOverflow, match=text):
        evaluator.vector_bytes(rows)


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        (Format(0, 1.0), "rows must be positive"),
        (Format(10**150, 1.0), "needs [0-9]+ bits, the plaintext has 510"),
        (Format(20, 1.0, residual_bits=62), "more than 62 bits"),
        (Format(20, 0.0), "positive and finite"),
    ],
)
def test_a_format_that_does_not_fit_the_key_is_refused(format: Format, reason: str) -> None:
    for make in (lambda: parties(format, 512), lambda: _Layout(format, private_key(512).public_key)):
        with pytest.raises(EncodingOverflow, match=reason):
            make()


# --- what the peers may not send --------------------------------------------------------------------------


def test_a_vector_of_another_length_is_refused() -> None:
    holder, evaluator = parties()
    vector = over_the_wire(holder.encrypt(np.zeros(4), DeterministicRng(1)))
    with pytest.raises(InvalidCiphertext, match=r"expected 2 ciphertexts of 256 bytes.*received 256 bytes"):
        evaluator.masked_products(vector, evaluator.prepare(np.zeros((5, 1))), DeterministicRng(1))


def test_a_reply_of_another_length_is_refused() -> None:
    holder, _ = parties()
    with pytest.raises(InvalidCiphertext, match="expected 2 ciphertexts"):
        holder.open_masked(over_the_wire(holder.encrypt(np.zeros(1), DeterministicRng(1))), 2)


def test_a_reply_under_another_key_is_refused() -> None:
    holder, _ = parties()
    reply = private_key(1024).public_key.encrypt([5, 6], DeterministicRng(1)).to_bytes()
    stranger = PaillierKeyHolder(FORMAT, PrivateKey(*(next_prime(prime) for prime in primes(1024))))
    with pytest.raises(InvalidCiphertext, match=r"does not decrypt to 7 masked numbers of .* another key"):
        stranger.open_masked(ReceivedCiphertexts(reply), 2)
    assert len(holder.open_masked(ReceivedCiphertexts(reply), 2)) == 2 * holder._layout.number_bytes


def test_a_reply_that_holds_no_masked_digits_is_refused() -> None:
    holder, evaluator = parties()
    layout = evaluator._layout
    highest = 2 * layout.bound + 2**layout.mask_bits - 1
    full = layout.join([highest] * 7)
    for plaintext, fits in [(-1, 0), (full, 1), (full + 1, 0), (2**layout.digit_bits - 1, 0), (2**1000, 0)]:
        reply = over_the_wire(private_key(1024).public_key.encrypt([plaintext], DeterministicRng(1)))
        if fits:
            assert int.from_bytes(holder.open_masked(reply, 1), "big") == highest
        else:
            with pytest.raises(InvalidCiphertext, match="does not decrypt to 7 masked numbers"):
                holder.open_masked(reply, 1)


def test_opened_numbers_of_a_wrong_size_are_refused() -> None:
    holder, evaluator = parties()
    *_, opened, masks = exchange(holder, evaluator, np.ones((3, 2)), np.ones(3), DeterministicRng(1))
    for bad in (b"", opened[:-1], opened + b"\0", opened[: len(opened) // 2]):
        with pytest.raises(MalformedMessage, match=f"expected 2 opened numbers.*the peer sent {len(bad)}"):
            evaluator.unmask(bad, masks)


@pytest.mark.parametrize("step", [1, -1])
def test_opened_numbers_beyond_the_bound_are_refused(step: int) -> None:
    holder, evaluator = parties()
    *_, opened, masks = exchange(
        holder, evaluator, np.ones((3, 1)), np.full(3, step * 2.0), DeterministicRng(1)
    )
    one_too_far = (int.from_bytes(opened, "big") + step).to_bytes(len(opened), "big")
    assert abs(evaluator.unmask(opened, masks)[0]) == 6.0
    with pytest.raises(MalformedMessage, match="1 of 1 opened numbers are beyond what 3 rows can give"):
        evaluator.unmask(one_too_far, masks)


def test_no_text_shows_masks_or_entries() -> None:
    holder, evaluator = parties()
    *_, masks = exchange(holder, evaluator, np.ones((3, 1)), np.ones(3), DeterministicRng(1))
    assert repr(masks) == "Masks(rows=3)"
    assert repr(evaluator.prepare(np.ones((3, 1)))) == "PreparedMatrix(rows=3)"


# --- what the key holder sees -----------------------------------------------------------------------------


def digits_seen(entry: float, runs: int, rng: Rng) -> FloatArray:
    """All decrypted digits over several runs in units of the mask's range: shape (runs, columns, digits)."""
    key = private_key(1024)
    holder, evaluator = parties()
    layout, prepared = evaluator._layout, evaluator.prepare(np.full((20, 4), entry))
    vector = holder.encrypt(np.full(20, 2.0), rng)
    seen = []
    for _ in range(runs):
        reply, _ = evaluator.masked_products(vector, prepared, rng)
        plaintexts = key.decrypt(key.public_key.accept(over_the_wire(reply), 4))
        seen.append([[digit / 2**layout.mask_bits for digit in layout.split(p)] for p in plaintexts])
    return np.array(seen)


def test_the_key_holder_sees_the_same_digits_whatever_the_matrix() -> None:
    positive, negative = (digits_seen(entry, 30, DeterministicRng(int(entry) + 5)) for entry in (1.0, -1.0))
    assert positive.shape == (30, 4, 7)
    assert stats.ks_2samp(positive.ravel(), negative.ravel()).pvalue > 0.01
    for digits in (positive, negative):
        assert stats.kstest(digits.ravel(), "uniform").pvalue > 0.01
        for t in range(7):
            assert stats.kstest(digits[:, :, t].ravel(), "uniform").pvalue > 0.001
        between = np.atleast_2d(np.corrcoef(digits.reshape(-1, 7).T))[np.triu_indices(7, 1)]
        assert np.abs(between).max() < 0.4  # 120 samples: four standard errors


def test_without_masks_the_digits_show_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PaillierEvaluator,
        "_draw_masks",
        lambda self, rng: [self._layout.bound] * (2 * self._layout.slots - 1),
    )
    positive, negative = (digits_seen(entry, 1, DeterministicRng(1)) for entry in (1.0, -1.0))
    assert (positive > negative).all()


def test_the_evaluator_is_told_one_digit_of_each_column() -> None:
    holder, evaluator = parties()
    key, layout = private_key(1024), evaluator._layout
    _, reply, opened, _ = exchange(holder, evaluator, np.ones((9, 2)), np.ones(9), DeterministicRng(3))
    plaintexts = key.decrypt(key.public_key.accept(ReceivedCiphertexts(reply), 2))
    middle = [layout.split(plaintext)[layout.slots - 1] for plaintext in plaintexts]
    assert opened == b"".join(digit.to_bytes(layout.number_bytes, "big") for digit in middle)


def test_the_randomness_of_a_reply_is_not_that_of_the_vector() -> None:
    holder, evaluator = parties()
    public = private_key(1024).public_key
    prepared, rng = evaluator.prepare(np.full((4, 1), 0.5)), DeterministicRng(4)
    vector = holder.encrypt(np.ones(4), rng)
    computed = vector.polynomial_product(prepared.exponents, evaluator._layout.digit_bits)  # type: ignore[attr-defined]
    masked = computed.add_plain([2**70])
    assert (
        masked._values[0] % public.n == computed._values[0] % public.n
    )  # masks leave the randomness as it is
    reply, _ = evaluator.masked_products(vector, prepared, rng)
    assert int.from_bytes(reply.to_bytes(), "big") % public.n != computed._values[0] % public.n


@pytest.mark.slow
def test_the_default_key_at_full_length() -> None:
    format, rng = Format(3000, 1.0), SystemRng()
    holder = PaillierKeyHolder(format, PrivateKey.generate(rng))
    evaluator = PaillierEvaluator.from_public(format, holder.public_bytes)
    generator = np.random.default_rng(11)
    matrix, residuals = generator.choice([-1.0, 1.0], (3000, 2)), generator.choice([-1.0, 1.0], 3000)
    matrix[:, 1] = residuals  # the second product reaches the bound
    *_, opened, masks = exchange(holder, evaluator, matrix, residuals, rng)
    assert evaluator.unmask(opened, masks).tolist() == [float(matrix[:, 0] @ residuals), 3000.0]
