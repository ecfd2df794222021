"""Convex objectives on tables that scikit-learn ships, with their minima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from sklearn import datasets

PENALTY = 1e-3  # half of it times the squared parameters is added
Table = tuple[np.ndarray, np.ndarray]


class Objective(NamedTuple):
    """A mean over the rows of a table, and the penalty.

    Attributes:
      table: a matrix and a vector, float32.
      losses: of each row, the penalty included, and no accuracy.
      gap: of parameters, how far the objective is from its minimum, in float64.
    """

    table: Table
    losses: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    gap: Callable[[np.ndarray], float]


def logistic() -> Objective:
    """Logistic regression: is a breast tumor malignant?"""
    return _penalized(
        _standardized(datasets.load_breast_cancer),
        value=lambda xp, z, y: xp.logaddexp(0.0, (1 - 2 * y) * z),
        slope=lambda z, y: expit(z) - y,
        curvature=lambda z: expit(z) * expit(-z),
    )


def least_squares() -> Objective:
    """Linear regression: how far will diabetes have gone in a year?"""
    return _penalized(
        _standardized(datasets.load_diabetes),
        value=lambda xp, z, y: xp.square(z - y) / 2,
        slope=lambda z, y: z - y,
        curvature=np.ones_like,
    )


def _penalized(
    table: Table,
    value: Callable[[Any, Any, Any], Any],
    slope: Callable[[Any, Any], Any],
    curvature: Callable[[Any], Any],
) -> Objective:
    """The mean of `value` at z = xw, whose derivatives by z are the other two."""
    x, y = (array.astype(np.float64) for array in table)

    def objective(w: np.ndarray) -> float:
        penalty = PENALTY / 2 * np.sum(np.square(w))
        return float(np.mean(value(np, x @ w, y)) + penalty)

    def losses(w: Any, examples: Any) -> tuple[jax.Array, jax.Array]:
        x, y = examples
        penalty = PENALTY / 2 * jnp.sum(jnp.square(w))
        values = value(jnp, x @ w, y) + penalty
        return values, jnp.full(values.shape, jnp.nan)

    best = np.zeros(x.shape[1])
    for _ in range(30):  # Newton's method, which ends at round-off in 10
        z = x @ best
        gradient = x.T @ slope(z, y) / len(y) + PENALTY * best
        hessian = (x.T * curvature(z)) @ x / len(y) + PENALTY * np.eye(len(best))
        best -= np.linalg.solve(hessian, gradient)
    least = objective(best)
    return Objective(table, losses, lambda w: objective(w) - least)


def _standardized(load: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Table:
    """A table whose columns have mean 0 and variance 1, and a column of ones."""
    x, y = load(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    y = y if set(y) == {0, 1} else (y - y.mean()) / y.std()
    ones = np.ones((len(x), 1))
    return np.hstack([x, ones]).astype(np.float32), y.astype(np.float32)
