"""Local gains: a learning rate of its own for every parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import at_least_float32
from diffgrad_optax._fit import check_state, fitting_gradients
from diffgrad_optax._params import check_real
from diffgrad_optax._previous import init_previous, next_previous
from diffgrad_optax._sharding import following_params, placed_like


class GainsState(NamedTuple):
    """State of :func:`scale_by_gains`; both trees are shaped like params."""

    gains: optax.Updates  #: γ_t, float32 or the parameters' dtype if wider.
    prev_sign: optax.Updates  #: the sign of g_{t-1}, int8; 0 before the first step.


def scale_by_gains(
    beta: jax.typing.ArrayLike = 0.05,
    *,
    min_gain: jax.typing.ArrayLike = 0.01,
    max_gain: jax.typing.ArrayLike = 100.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies each gradient by a gain that grows while its sign stays the same.

    .. math::

        \gamma_t = \operatorname{clip}_{[\gamma_\min, \gamma_\max]}
            \begin{cases}
                \gamma_{t-1} + \beta & g_t\, g_{t-1} > 0 \\
                \gamma_{t-1} (1 - \beta) & g_t\, g_{t-1} < 0 \\
                \gamma_{t-1} & \text{otherwise}
            \end{cases}
        \qquad u_t = \gamma_t\, g_t

    elementwise, from :math:`\gamma_0 = 1`, with :math:`\beta` `beta`,
    :math:`\gamma_\min` `min_gain` and :math:`\gamma_\max` `max_gain`.

    Reach for it before plain or momentum SGD with large batches, where a sign
    means something. Before an optimizer that divides by the gradient's size
    (Adam, RMSprop) a slowly changing gain cancels: put it after that one.

    Memory: a gain, in float32 at least, and one byte per parameter. It is not stored
    in less, because in bfloat16 a gain of 16 could not grow by 0.05.

    Deviations: lectures shrink the gain wherever the sign is not kept, also where a
    gradient is zero. Here, as in delta-bar-delta, such a step says nothing and the
    gain stays (the first step's too): an embedding's row that no batch touches
    would lose its gain otherwise. NaN says nothing either, and an infinite gradient
    has its sign: gains stay finite. Delta-bar-delta compares with an average of
    earlier gradients; this, as the lectures, with the last one.

    Args:
      beta: :math:`\beta`, in [0, 1). Traceable.
      min_gain: the smallest gain, in [0, 1]. Traceable.
      max_gain: the largest gain, finite and >= 1. Traceable.

    Returns:
      A transformation with state :class:`GainsState`. Updates have the gradients'
      dtype.

    Raises:
      ValueError: if a plain number is out of its range, or (by `update`) if the
        gradients do not fit the state.
      TypeError: if an argument is no number, (by `init`) if a parameter is complex,
        as its gradients have no sign, or (by `update`) if a gradient is neither array
        nor number or the state is that of another transformation.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import scale_by_gains
    >>> optimizer = scale_by_gains(beta=0.1)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for grads in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
    ...     updates, state = optimizer.update(grads, state)
    ...     print(updates)
    [1. 1.]
    [ 1.1 -0.9]

    References:
      Jacobs, "Increased rates of convergence through learning rate adaptation",
      Neural Networks 1 (1988) 295: delta-bar-delta. Hinton, "Neural Networks for
      Machine Learning", lecture 6d: the constants.
    """
    check(beta=beta, min_gain=min_gain, max_gain=max_gain)

    @following_params
    def init_fn(params: optax.Params) -> GainsState:
        check_real('scale_by_gains', params)
        return GainsState(
            gains=jax.tree.map(
                lambda param: jnp.ones_like(param, dtype=at_least_float32(param)),
                params,
            ),
            prev_sign=init_previous(params, np.dtype(np.int8)),
        )

    def next_gain(gain: jax.Array, sign: jax.Array, prev_sign: jax.Array) -> jax.Array:
        kept = sign * prev_sign
        gain = placed_like(gain, kept)
        β, low, high = (jnp.asarray(x, gain.dtype) for x in (beta, min_gain, max_gain))
        # Clipped in each case: XLA:CPU would copy gains whose choice is clipped.
        changed = jnp.clip(jnp.where(kept > 0, gain + β, gain * (1 - β)), low, high)
        return jnp.where(kept == 0, jnp.clip(gain, low, high), changed)

    def update_fn(
        updates: optax.Updates,
        state: GainsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GainsState]:
        del params, extra_args
        check_state(state, GainsState)
        grads = fitting_gradients(updates, state.prev_sign)
        signs = jax.tree.map(_sign, grads)
        gains = jax.tree.map(next_gain, state.gains, signs, state.prev_sign)
        updates = jax.tree.map(
            lambda gain, grad: (gain * grad.astype(gain.dtype)).astype(grad.dtype),
            gains,
            grads,
        )
        prev_sign = next_previous(signs, state.prev_sign, gains)
        return updates, GainsState(gains, prev_sign)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _sign(grad: jax.Array) -> jax.Array:
    """-1, 0 or 1 as int8; 0 for NaN, which has no sign to keep."""
    return (grad > 0).astype(jnp.int8) - (grad < 0).astype(jnp.int8)
