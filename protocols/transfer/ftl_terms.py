"""The mathematics of federated transfer learning on one side of the wire: what each party multiplies and encrypts.

Representations are u = tanh(x W), width k. With labels y_ic of +-1 in C classes (one against the rest), N rows of the
guest's, n of them common, and Phi_c = (1/N) sum_i y_ic u_i^G over all of the guest's rows, the loss is

    (1/n) sum over common i of [ sum_c (log 2 - y_ic f_ic / 2 + f_ic^2 / 8) + gamma |u_i^G - u_i^H|^2 ],
    f_ic = u_i^H . Phi_c

which is the logistic loss of the scores f to second order, and the squared distance of representations. As y_ic^2 = 1,
the quadratic term is u_i^H Q u_i^H / 8 with one k x k matrix Q = sum_c Phi_c Phi_c^T for all rows. Column j of either
gradient is then bilinear in what the guest and what the host knows:

    n dL/dW_H[:, j] = sum_i x_i s_ij (sum_c -y_ic Phi_cj / 2 - 2 gamma u_ij^G) + sum_l T_jl Q_lj / 4 + own part
    n dL/dW_G[:, j] = sum_i (sum_c -K_cj y_ic / 2 - 2 gamma x_i s_ij) u_ij^H + sum_l (sum_c K_cj Phi_cl / 4) S_lj + own

with s = 1 - u^2, T_jl = sum_i x_i s_ij u_il^H, S = sum_i u_i^H (u_i^H)^T and K_cj = (1/N) sum_i y_ic x_i s_ij over all
of the guest's rows. So each party encrypts k vectors of n + k numbers and multiplies by k matrices of n + k rows of its
own. Parts that one party knows are added in the clear.

Source: Liu, Kang, Xing, Chen, Yang, "A Secure Federated Transfer Learning Framework", arXiv 1812.03337
(there a k x k ciphertext for each row, and per-row gradients inside).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_INPUT", "Guest", "Host", "Plan"]

FloatArray = NDArray[np.float64]
LARGEST_INPUT = 5.0
"""Of the absolute values of inputs."""
ENTRY_BITS = 22
"""Of the integers that stand for entries of a party's matrices."""
VECTOR_BITS = 24
"""Fraction bits of what is encrypted."""


@final
@dataclass(frozen=True)
class Plan:
    """What both parties agree on.

    Attributes
    ----------
    rows : int
        Common rows, n.
    columns : tuple of int
        Inputs of the guest's and of the host's network, with that of ones.
    width : int
        Length of a representation, k.
    classes : int
        Scores a row, C.
    iterations : int
    learning_rate, momentum : float
        Of each party's gradient descent.
    gamma : float
        Weight of the distance between representations.
    penalty : float
        Weight of half the squared weights of each network.
    """

    rows: int
    columns: tuple[int, int]
    width: int
    classes: int
    iterations: int
    learning_rate: float
    momentum: float
    gamma: float
    penalty: float

    @property
    def length(self) -> int:
        """Numbers in a vector: n + k."""
        return self.rows + self.width

    @cached_property
    def entry_bits(self) -> int:
        """Fraction bits of entries, from the bound on what a party multiplies by."""
        bound = (LARGEST_INPUT + 1) * (self.classes / 2 + 2 * self.gamma + 1)
        return ENTRY_BITS - math.ceil(math.log2(bound))

    def step(self, weights: FloatArray, velocity: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the next weights; the velocity is changed in place."""
        velocity *= self.momentum
        velocity -= self.learning_rate * (gradient + self.penalty * weights)
        return weights + velocity


def _weighted(inputs: FloatArray, u: FloatArray) -> FloatArray:
    """Return x_id s_ij: (k, n, d)."""
    slopes: FloatArray = (1 - u**2).T[:, :, None] * inputs
    return slopes


@final
@dataclass(frozen=True, eq=False)
class Guest:
    """The guest's side.

    Attributes
    ----------
    inputs : ndarray, shape (N, columns)
        The common rows first.
    y : ndarray, shape (N, C)
        +1 and -1.
    weights : ndarray, shape (columns, k)
    plan : Plan
    """

    inputs: FloatArray
    y: FloatArray
    weights: FloatArray
    plan: Plan

    @cached_property
    def u(self) -> FloatArray:
        """Representations of all rows: (N, k)."""
        return np.tanh(self.inputs @ self.weights)

    @cached_property
    def phi(self) -> FloatArray:
        """Phi: (C, k)."""
        phi: FloatArray = self.y.T @ self.u / len(self.u)
        return phi

    def vectors(self) -> FloatArray:
        """Return what the host multiplies: (n + k, k)."""
        n = self.plan.rows
        residual = -self.y[:n] @ self.phi / 2 - 2 * self.plan.gamma * self.u[:n]
        return np.vstack([residual, n / 4 * self.phi.T @ self.phi])

    def operands(self) -> FloatArray:
        """Return what the guest multiplies by: (k, n + k, columns + 1); the last column gives the loss."""
        n, plan = self.plan.rows, self.plan
        slopes = (1 - self.u**2) / len(self.u)
        sensitivity = np.einsum(
            "ncj,nd->jcd", self.y[:, :, None] * slopes[:, None, :], self.inputs
        )  # K: (k, C, d)
        rows = -self.y[:n] @ sensitivity / 2 - 2 * plan.gamma * _weighted(self.inputs[:n], self.u[:n])
        products = self.phi.T @ sensitivity / 4
        gradient = np.concatenate([rows, products], axis=1)
        linear = -self.y[:n] @ self.phi / 2 - 2 * plan.gamma * self.u[:n]
        square = self.phi.T @ self.phi / 8 + plan.gamma * np.eye(plan.width)
        return np.concatenate([gradient, np.vstack([linear, square]).T[:, :, None]], axis=2)

    def gradient(self, opened: FloatArray) -> FloatArray:
        """Return dL/dW from the opened products, (columns, k)."""
        n = self.plan.rows
        own = self.inputs[:n].T @ ((1 - self.u[:n] ** 2) * self.u[:n])
        gradient: FloatArray = (opened + 2 * self.plan.gamma * own) / n
        return gradient

    def loss(self, opened: float) -> float:
        """Return the loss from the opened sum."""
        own = self.plan.gamma * float((self.u[: self.plan.rows] ** 2).sum())
        return (opened + own) / self.plan.rows + self.plan.classes * math.log(2)


@final
@dataclass(frozen=True, eq=False)
class Host:
    """The host's side.

    Attributes
    ----------
    inputs : ndarray, shape (n, columns)
        The common rows.
    weights : ndarray, shape (columns, k)
    plan : Plan
    """

    inputs: FloatArray
    weights: FloatArray
    plan: Plan

    @cached_property
    def u(self) -> FloatArray:
        """Representations of the common rows: (n, k)."""
        return np.tanh(self.inputs @ self.weights)

    def vectors(self) -> FloatArray:
        """Return what the guest multiplies: (n + k, k)."""
        return np.vstack([self.u, self.u.T @ self.u])

    def operands(self) -> FloatArray:
        """Return what the host multiplies by: (k, n + k, columns)."""
        weighted = _weighted(self.inputs, self.u)
        return np.concatenate([weighted, self.u.T @ weighted / self.plan.rows], axis=1)

    def gradient(self, opened: FloatArray) -> FloatArray:
        """Return dL/dW from the opened products, (columns, k)."""
        own = self.inputs.T @ ((1 - self.u**2) * self.u)
        gradient: FloatArray = (opened + 2 * self.plan.gamma * own) / self.plan.rows
        return gradient
