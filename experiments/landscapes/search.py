"""The search that every optimizer gets: the same rates, starts, noise and steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.landscapes.functions import Function
from experiments.landscapes.optimizers import Make

RATES = tuple(float(f'{10 ** (k / 3):.3g}') for k in range(-15, 4))  # 1e-5 to 10

SOLVED = 1e-12  # losses below are all the same to us


class Runs(NamedTuple):
    """What an optimizer does on a function, for each rate and start."""

    final: np.ndarray  # [rate, start]: losses; infinite where a run left the numbers
    positions: np.ndarray  # [rate, shown start, step, 2]
    losses: np.ndarray  # [rate, shown start, step]


def starts(function: Function, first: int, count: int) -> np.ndarray:
    """Points `first` to `first + count - 1` of a sequence that fills the box evenly.

    The additive recurrence whose steps are powers of the plastic number's inverse: any
    part of it is spread about as well as any other.
    """
    inverse = 0.7548776662466927
    steps = np.arange(first + 1, first + count + 1)[:, None]
    unit = (steps * np.array([inverse, inverse**2])) % 1
    low, high = np.array(function.low), np.array(function.high)
    return low + unit * (high - low)


def run(function: Function, make: Make, count: int, shown: int, steps: int) -> Runs:
    """Runs an optimizer from all starts at all rates, in float32 as users do.

    Losses are computed in float64, because float32 has no small ones of Rastrigin's.

    Args:
      function: where.
      make: makes the optimizer.
      count: of the starts that a rate is chosen on, and of those held out.
      shown: how many of the held-out starts have their paths kept.
      steps: of each run.
    """
    with jax.enable_x64(True):
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))
        positions, losses = _walk(
            function,
            make,
            steps,
            jnp.array(RATES, jnp.float32),
            jnp.array(starts(function, 0, 2 * count), jnp.float32),
            keys(jnp.arange(2 * count)),
        )
        final = np.asarray(losses[:, :, -1])
        return Runs(
            np.where(np.isfinite(final), final, np.inf),
            np.asarray(positions[:, count : count + shown]),
            np.asarray(losses[:, count : count + shown]),
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _walk(
    function: Function,
    make: Make,
    steps: int,
    rates: jax.Array,
    starts: jax.Array,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Every position and loss, the start's among them."""

    def from_start(rate: jax.Array, start: jax.Array, key: jax.Array) -> jax.Array:
        noise_key, optimizer_key = jax.random.split(key)
        optimizer = make(rate, optimizer_key)

        def step(carry: Any, count: jax.Array) -> tuple[Any, jax.Array]:
            point, state = carry
            normal = jnp.zeros_like(point)
            if function.noise:
                step_key = jax.random.fold_in(noise_key, count)
                normal = jax.random.normal(step_key, point.shape, point.dtype)
            grads = function.grad(point, normal)
            updates, state = optimizer.update(grads, state, point)
            point = optax.apply_updates(point, updates)
            return (point, state), point

        carry = start, optimizer.init(start)
        _, positions = jax.lax.scan(step, carry, jnp.arange(steps))
        return jnp.concatenate([start[None], positions])

    over_starts = jax.vmap(from_start, (None, 0, 0))
    positions = jax.vmap(over_starts, (0, None, None))(rates, starts, keys)
    return positions, function.value(positions.astype(jnp.float64))


def choose_rate(final: np.ndarray) -> int:
    """The place in RATES of the lowest median loss over starts.

    Medians below SOLVED are equal, and equal ones are told apart by their geometric
    means.

    Args:
      final: [rate, start] losses on the starts of the search.
    """
    losses = np.maximum(final, SOLVED)
    scores = zip(np.median(losses, axis=1), np.log10(losses).mean(axis=1), strict=True)
    return min(enumerate(scores), key=lambda item: item[1])[0]
