"""The best fixed point in hindsight, and how far from the best it is at most."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from experiments.regret.problems import RADIUS, Problem


class Best(NamedTuple):
    """The point of the box with the least sum of losses."""

    point: np.ndarray
    value: float  # the sum at it
    gap: float  # no point's sum is below value - gap


def best_points(problem: Problem, rounds: Iterable[int]) -> list[Best]:
    """The best point of the first T rounds, for each T, by L-BFGS-B in float64.

    As the sum is convex, it lies above its tangent plane at any point, and nowhere in
    the box below the plane's lowest corner: that is the gap.
    """

    @jax.jit
    @jax.value_and_grad
    def mean(x: jax.Array, counts: jax.Array, rows: jax.Array) -> jax.Array:
        losses = jax.vmap(problem.loss, (None, 0))(x, rows)
        return jnp.sum(counts * losses) / jnp.sum(counts)

    rows, which = np.unique(problem.rows, axis=0, return_inverse=True)
    found, point = [], np.zeros(rows.shape[1])
    # SciPy's matrices have ten rows here: BLAS threads would only wait for each other.
    with jax.enable_x64(True), threadpool_limits(1):
        on_device = jnp.asarray(rows)
        for last in rounds:
            seen = np.bincount(which[:last], minlength=len(rows))
            counts = jnp.asarray(seen, float)

            def objective(
                x: np.ndarray, counts: jax.Array = counts
            ) -> tuple[float, np.ndarray]:
                value, slope = mean(x, counts, on_device)
                return float(value), np.asarray(slope)

            point = minimize(
                objective,
                point,
                method='L-BFGS-B',
                jac=True,
                bounds=[(-RADIUS, RADIUS)] * len(point),
                options={'ftol': 0.0, 'gtol': 1e-10, 'maxiter': 1000},
            ).x
            value, slope = objective(point)
            gap = float(np.sum(slope * point + RADIUS * np.abs(slope)))
            found.append(Best(point, last * value, last * gap))
    return found
