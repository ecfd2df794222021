"""Online convex optimization: a point, its loss and gradient, and a step; again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.projections import projection_box

from diffgrad_optax import diffgrad, with_friction
from experiments.regret.problems import RADIUS, Constants, Problem

EPS = 1e-30  # the theorem has no ε; this one only makes 0/0 a 0

# What is compared, as functions of α_t, β_{1,t} and β2.
OPTIMIZERS = {
    'sgd': lambda alpha, b1, b2: optax.sgd(alpha),
    'friction-sgd': lambda alpha, b1, b2: optax.chain(
        with_friction(optax.identity()), optax.scale_by_learning_rate(alpha)
    ),
    'adam': lambda alpha, b1, b2: optax.adam(alpha, b1, b2, EPS),
    'adam-half': lambda alpha, b1, b2: optax.adam(alpha / 2, b1, b2, EPS),
    'diffgrad': lambda alpha, b1, b2: diffgrad(alpha, b1, b2, EPS),
    'amsgrad': lambda alpha, b1, b2: optax.amsgrad(alpha, b1, b2, EPS),
    'friction-amsgrad': lambda alpha, b1, b2: optax.chain(
        with_friction(optax.scale_by_amsgrad(b1, b2, EPS)),
        optax.scale_by_learning_rate(alpha),
    ),
}


class Game(NamedTuple):
    """What happened in every round."""

    points: np.ndarray  # (rounds, d), in the box
    losses: np.ndarray  # (rounds,)
    gradients: np.ndarray  # (rounds, d)
    updates: np.ndarray  # (rounds, d), before the projection


def make_optimizer(name: str, constants: Constants) -> optax.GradientTransformation:
    """An optimizer with the theorem's schedules of α and β1."""
    alpha, beta1, decay, beta2 = constants
    return optax.inject_hyperparams(OPTIMIZERS[name])(
        alpha=lambda count: alpha / jnp.sqrt(count + 1.0),
        b1=lambda count: beta1 * decay**count,
        b2=beta2,
    )


def play(problem: Problem, name: str) -> Game:
    """Plays all rounds from the middle of the box, in float64."""
    optimizer = make_optimizer(name, problem.constants)

    def step(carry: Any, row: jax.Array) -> tuple[Any, Game]:
        x, state = carry
        loss, gradient = jax.value_and_grad(problem.loss)(x, row)
        updates, state = optimizer.update(gradient, state, x)
        # A box has the same nearest point in every diagonal metric, AMSGrad's too.
        following = projection_box(optax.apply_updates(x, updates), -RADIUS, RADIUS)
        return (following, state), Game(x, loss, gradient, updates)

    @jax.jit
    def rounds(rows: jax.Array) -> Game:
        start = jnp.zeros(rows.shape[1])
        return jax.lax.scan(step, (start, optimizer.init(start)), rows)[1]

    with jax.enable_x64(True):
        return Game(*map(np.asarray, rounds(jnp.asarray(problem.rows))))
