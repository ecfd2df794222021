"""How the learning rate goes over a run, by name."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax import schedules


class Length(NamedTuple):
    """How long a run is."""

    epochs: int
    steps: int  # in an epoch


def drop(rate: float, length: Length) -> optax.Schedule:
    """A tenth for the last fifth of the epochs, as the diffGrad paper has it."""
    first = max(1, length.epochs * 4 // 5) * length.steps
    return optax.piecewise_constant_schedule(rate, {first: 0.1})


def constant(rate: float, length: Length) -> optax.Schedule:
    """The same all the time."""
    del length
    return optax.constant_schedule(rate)


def inverse(rate: float, length: Length) -> optax.Schedule:
    """1/(1 + kt), down to a tenth at the end."""
    return schedules.inverse_decay(rate, 9 / (length.epochs * length.steps))


def halving(rate: float, length: Length) -> optax.Schedule:
    """Half after every fifth of the run."""
    return schedules.halving(rate, math.ceil(length.epochs * length.steps / 5))


def triangular(rate: float, length: Length) -> optax.Schedule:
    """Up from a tenth and down again, in eight epochs or the run."""
    half_cycle = min(4 * length.steps, math.ceil(length.epochs * length.steps / 2))
    return schedules.triangular(rate / 10, rate, half_cycle)


SCHEDULES: dict[str, Callable[[float, Length], optax.Schedule]] = {
    f.__name__: f for f in (drop, constant, inverse, halving, triangular)
}


def rule_of_plateau(**changes: float) -> optax.GradientTransformationExtraArgs:
    """Optax's rule; without jit its branches would be compiled anew at every call."""
    rule = optax.contrib.reduce_on_plateau(factor=0.1, patience=5, **changes)
    return rule._replace(update=jax.jit(rule.update))


PLATEAU = rule_of_plateau()


class Plateau:
    """A learning rate that is divided by 10 where the training loss stands still.

    optax's rule, told the mean loss of each epoch: five epochs without a new lowest
    one. The test data are not asked.
    """

    def __init__(self, rate: jax.Array, losses: Iterable[float]) -> None:
        # A copy, because the state that it comes from is donated.
        self._rate = jnp.copy(rate)
        self._state = PLATEAU.init(jnp.zeros(()))
        for loss in losses:
            self.after(loss)

    def after(self, loss: float) -> jax.Array:
        """The rate after an epoch with this mean loss."""
        _, self._state = PLATEAU.update((), self._state, value=jnp.float32(loss))
        return self._rate * self._state.scale
