r"""Learning-rate schedules that optax lacks.

Each returns a function from the step count :math:`t = 0, 1, \ldots` (an integer below
2³¹, traced or not) to the learning rate, as optax's schedules do. For everything else
use those: exponential decay is `optax.exponential_decay`, reduction on a plateau
`optax.contrib.reduce_on_plateau`.
"""

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check

__all__ = ('halving', 'inverse_decay', 'triangular')


def inverse_decay(
    init_value: jax.typing.ArrayLike, decay_rate: jax.typing.ArrayLike
) -> optax.Schedule:
    r"""Inverse-time decay: :math:`\alpha_t = \alpha_0 / (1 + k t)`.

    Args:
      init_value: :math:`\alpha_0`, >= 0. Traceable.
      decay_rate: :math:`k`, per step, >= 0. Traceable.

    Returns:
      The schedule.

    Raises:
      ValueError, TypeError: if a plain number is out of range, or not one.

    >>> from diffgrad_optax import schedules
    >>> schedule = schedules.inverse_decay(1.0, decay_rate=0.5)
    >>> [float(schedule(t)) for t in (0, 2, 6)]
    [1.0, 0.5, 0.25]
    """
    check(init_value=init_value, decay_rate=decay_rate)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        # As a float: an integer decay_rate times an integer count could overflow.
        t = jnp.asarray(count).astype(float)
        return jnp.asarray(init_value / (1.0 + decay_rate * t))

    return schedule


def halving(init_value: jax.typing.ArrayLike, transition_steps: int) -> optax.Schedule:
    r"""Halving every n steps: :math:`\alpha_t = \alpha_0\, 2^{-\lfloor t/n \rfloor}`.

    Exact, where a compiled `optax.exponential_decay` in its staircase form is a step
    late for some periods, 41 among them, because its quotient is rounded.

    Args:
      init_value: :math:`\alpha_0`, >= 0. Traceable.
      transition_steps: :math:`n`, from 1 to 2³¹ - 1. Static.

    Returns:
      The schedule.

    Raises:
      ValueError, TypeError: if a plain number is out of range, or not one.

    >>> from diffgrad_optax import schedules
    >>> schedule = schedules.halving(1.0, transition_steps=10)
    >>> [float(schedule(t)) for t in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check(init_value=init_value, transition_steps=transition_steps)
    steps = int(transition_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        halvings = jnp.asarray(count).astype(int) // steps
        return jnp.asarray(jnp.ldexp(init_value, -halvings))

    return schedule


def triangular(
    init_value: jax.typing.ArrayLike,
    peak_value: jax.typing.ArrayLike,
    transition_steps: int,
) -> optax.Schedule:
    r"""The triangular cycle: from `init_value` to `peak_value` and back, for ever.

    .. math::

        \alpha_t = \alpha_\min + (\alpha_\max - \alpha_\min)
            \left(1 - \left|\frac{t \bmod 2s}{s} - 1\right|\right)

    with :math:`\alpha_\min` `init_value`, :math:`\alpha_\max` `peak_value` and
    :math:`s` `transition_steps`.

    Args:
      init_value: the rate at the start, >= 0. Traceable.
      peak_value: the rate after `transition_steps` steps, >= 0. Traceable.
      transition_steps: steps in half a cycle, from 1 to 2³¹ - 1; the paper takes 2 to
        10 epochs. Static.

    Returns:
      The schedule.

    Raises:
      ValueError, TypeError: if a plain number is out of range, or not one.

    >>> from diffgrad_optax import schedules
    >>> schedule = schedules.triangular(0.0, 1.0, transition_steps=4)
    >>> [float(schedule(t)) for t in (0, 1, 4, 6, 8, 9)]
    [0.0, 0.25, 1.0, 0.5, 0.0, 0.25]

    References:
      Smith, `Cyclical Learning Rates for Training Neural Networks
      <https://arxiv.org/abs/1506.01186>`_, WACV 2017, Sec. 3.1.
    """
    check(init_value=init_value, peak_value=peak_value)
    check(transition_steps=transition_steps)
    steps = int(transition_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        # In integers, because counts above 2^24 are not float32 numbers: which half
        # of a cycle this is, and what part of it has gone.
        t = jnp.asarray(count).astype(int)
        falling = (t // steps % 2).astype(float)
        height = jnp.abs(falling - (t % steps).astype(float) / steps)
        return jnp.asarray(init_value * (1 - height) + peak_value * height)

    return schedule
