"""Exact samples of the discrete Gaussian distribution, from uniform bits and integer arithmetic alone.

N_Z(0, sigma^2) has P(x) proportional to exp(-x^2 / (2 sigma^2)) on the integers. Canonne, Kamath and Steinke sample it
by rejection from a discrete Laplace distribution of scale t and show how every coin exp(-g) with a rational g is
flipped exactly. Here sigma is an integer and t = sigma, so that

    P(accept y) = exp(-(|y| - sigma^2 / t)^2 / (2 sigma^2)) = exp(-(|y| - sigma)^2 / (2 sigma^2))

is the exponential of a quotient of integers; a coin of g / k is one of g and one of 1 / k, which keeps them below 2^64.
Proposals beyond 64 sigma are refused without a coin: it would come up with a probability below exp(-1984).

How long a sample takes depends on its coins. Samples are drawn by the thousands, so that a total time says little; who
can measure single ones on this machine is outside of the model.

Source: Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020 (arXiv 2004.00010),
the algorithms for exp(-g), the discrete Laplace and the discrete Gaussian distribution.
"""

from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow

__all__ = ["LARGEST_SIGMA", "sample"]

LARGEST_SIGMA = 1 << 24
BEYOND = 64  # times sigma
SPARE = 4096  # words left, below which no sample is begun
WORDS = 40  # about as many as a sample takes

Words: TypeAlias = NDArray[np.uint64]


def sample(rng: Rng, sigma: int, size: int) -> NDArray[np.int64]:
    """Return `size` independent samples of N_Z(0, sigma^2).

    Parameters
    ----------
    rng : Rng
    sigma : int
        1 to 2^24.
    size : int

    Raises
    ------
    EncodingOverflow
        If sigma is out of range.
    """
    if not 1 <= sigma <= LARGEST_SIGMA:
        raise EncodingOverflow(f"sigma is an integer from 1 to {LARGEST_SIGMA:,}, not {sigma}")
    out = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        count = WORDS * min(size - filled, 1 << 16) + 2 * SPARE
        words = np.frombuffer(rng.bytes(8 * count), "<u8").astype(np.uint64, copy=False)
        filled += _fill(words, np.uint64(sigma), out[filled:])
    return out


def _kernel(function: Any) -> Any:
    return njit(nogil=True, cache=True, inline="always")(function)


@_kernel
def _mask(bound: Any) -> Any:
    """Return as many ones as the numbers below `bound` have bits."""
    mask = np.uint64(1)
    while mask < bound:
        mask <<= np.uint64(1)
    return mask - np.uint64(1)


@_kernel
def _below(words: Any, at: Any, bound: Any, mask: Any) -> Any:
    """Return a uniform number below `bound` by rejection, and the next place in the words."""
    while True:
        if (
            at >= words.size
        ):  # never reached but by a generator that repeats itself: the sample is thrown away
            return np.uint64(0), at + 1
        value = words[at] & mask
        at += 1
        if value < bound:
            return value, at


@_kernel
def _small_coin(words: Any, at: Any, numerator: Any, denominator: Any, mask: Any) -> Any:
    """Flip a coin of exp(-numerator / denominator), numerator <= denominator."""
    k = np.uint64(1)
    while True:
        value, at = _below(words, at, denominator, mask)
        heads = value < numerator
        if heads and k > 1:
            value, at = _below(words, at, k, _mask(k))
            heads = value == 0
        if not heads:
            return (k & np.uint64(1)) == np.uint64(1), at
        k += np.uint64(1)


@_kernel
def _natural_coin(words: Any, at: Any) -> Any:
    """Flip a coin of exp(-1)."""
    k = np.uint64(2)  # the coin of 1 / 1 is always heads
    while True:
        value, at = _below(words, at, k, _mask(k))
        if value:
            return (k & np.uint64(1)) == np.uint64(1), at
        k += np.uint64(1)


@_kernel
def _coin(words: Any, at: Any, numerator: Any, denominator: Any, mask: Any) -> Any:
    """Flip a coin of exp(-numerator / denominator): one of exp(-1) for every whole number in the quotient."""
    whole = numerator // denominator
    for _ in range(whole):
        heads, at = _natural_coin(words, at)
        if not heads:
            return False, at
    return _small_coin(words, at, numerator - whole * denominator, denominator, mask)


@_kernel
def _laplace(words: Any, at: Any, t: Any, mask: Any) -> Any:
    """Return absolute value and sign of a sample of the discrete Laplace distribution of scale t."""
    while True:
        u, at = _below(words, at, t, mask)
        heads, at = _small_coin(words, at, u, t, mask)
        if not heads:
            continue
        v = np.uint64(0)
        while True:
            heads, at = _natural_coin(words, at)
            if not heads or v > np.uint64(BEYOND):
                break
            v += np.uint64(1)
        negative, at = _below(words, at, np.uint64(2), np.uint64(1))
        size = u + t * v
        if negative == 0 or size > 0:
            return size, negative, at


@njit(nogil=True, cache=True)
def _fill(words: Any, sigma: Any, out: Any) -> Any:
    """Fill `out` as far as the words reach; return how far."""
    at, filled = 0, 0
    denominator = np.uint64(2) * sigma * sigma
    mask, wide = _mask(sigma), _mask(denominator)
    while filled < out.size and at + SPARE < words.size:
        size, negative, at = _laplace(words, at, sigma, mask)
        if size > np.uint64(BEYOND) * sigma:
            continue
        apart = size - sigma if size > sigma else sigma - size
        accepted, at = _coin(words, at, apart * apart, denominator, wide)
        if accepted and at <= words.size:
            out[filled] = -np.int64(size) if negative else np.int64(size)
            filled += 1
    return filled
