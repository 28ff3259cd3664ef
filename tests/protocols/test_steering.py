"""The steering party's way to a minimum, from inner products alone."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from vfl.protocols.steering import Steering

FloatArray = NDArray[np.float64]


def walk(
    gradient: Callable[[FloatArray], FloatArray], start: FloatArray, curvature: float, steps: int
) -> tuple[Steering, list[FloatArray], FloatArray]:
    """Go `steps` gradients far; return the way, the gradients and the last point."""
    way, seen, point = Steering(curvature), list[FloatArray](), start
    for _ in range(steps):
        seen.append(gradient(point))
        way.see(np.array(seen) @ seen[-1])
        point = start + way.coefficients() @ np.array(seen)
    return way, seen, start + way.end(arrived=1e-3) @ np.array(seen)


def test_a_quadratic_of_three_eigenvalues_takes_few_steps() -> None:
    hessian, best = np.diag([1.0, 1.0, 3.0, 3.0, 10.0]), np.arange(5.0)
    way, _, point = walk(lambda u: hessian @ (u - best), np.zeros(5), 3.0, 12)
    np.testing.assert_allclose(point, best, atol=1e-3)
    assert way.steps == 12
    assert way.distance < 1e-3


def test_the_distance_estimates_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 6))
    y = (rng.random(500) < expit(x @ rng.normal(size=6))).astype(float)
    curvature = 0.15
    way, points = Steering(curvature), [np.zeros(6)]
    seen, distances = list[FloatArray](), []
    for _ in range(20):
        seen.append(x.T @ (expit(x @ points[-1]) - y) / 500)
        way.see(np.array(seen) @ seen[-1])
        distances.append(way.distance)
        points.append(way.coefficients() @ np.array(seen))
    best = points[-1]
    weights = expit(x @ best) * (1 - expit(x @ best))
    for step in (3, 5, 7):
        missing = np.sqrt((weights * (x @ (points[step] - best)) ** 2).mean() / curvature)
        assert distances[step] == pytest.approx(missing, rel=0.7)
    assert distances[-1] < 1e-6


def test_a_step_too_far_is_taken_back() -> None:
    """Poisson's curvature grows along the first step, which is far too long for it."""
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    y = rng.poisson(np.exp(x @ [2.0, 0.6, -0.4])).astype(float)

    def gradient(u: FloatArray) -> FloatArray:
        return np.asarray(x.T @ (np.exp(x @ u) - y) / 300)

    way, seen, point = walk(gradient, np.zeros(3), 1.0, 20)
    assert np.linalg.norm(seen[1]) > 10 * np.linalg.norm(seen[0])
    assert np.linalg.norm(gradient(point)) < 1e-4
    assert way.distance < 1e-3


def test_garbage_is_not_used() -> None:
    """A gradient whose inner products are meaningless changes nothing but the next point."""
    way = Steering(1.0)
    way.see(np.array([1.0]))
    before = way.distance
    way.see(np.array([1e30, -1e35]))
    assert way.distance == before
    np.testing.assert_allclose(way.coefficients(), [-0.25, 0.0])
    np.testing.assert_allclose(way.end(arrived=0.0), [0.0, 0.0])
