"""Local gains: a learning rate of its own for every parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import at_least_float32, scalar
from diffgrad_optax._frame import Stepped, framed
from diffgrad_optax._params import check_params, zeros
from diffgrad_optax._sharding import placed_like


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

    Use it before plain or momentum SGD with large batches, where a sign
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

    def init(params: optax.Params) -> GainsState:
        check_params(params, signs_for='scale_by_gains')
        return GainsState(
            gains=jax.tree.map(
                lambda param: jnp.ones_like(param, dtype=at_least_float32(param)),
                params,
            ),
            prev_sign=zeros(params, dtype=np.int8),
        )

    def next_gain(gain: jax.Array, sign: jax.Array, prev_sign: jax.Array) -> jax.Array:
        agreement = sign * prev_sign
        gain = placed_like(gain, agreement)
        β, low, high = (scalar(x, gain) for x in (beta, min_gain, max_gain))
        changed = jnp.where(agreement > 0, gain + β, gain * (1 - β))
        return jnp.where(
            agreement == 0, jnp.clip(gain, low, high), jnp.clip(changed, low, high)
        )

    def step(grads: optax.Updates, state: GainsState, **_: Any) -> Stepped:
        signs = jax.tree.map(_sign, grads)
        gains = jax.tree.map(next_gain, state.gains, signs, state.prev_sign)
        updates = jax.tree.map(
            lambda gain, g: gain * g.astype(gain.dtype), gains, grads
        )
        return updates, GainsState(gains, prev_sign=signs), (gains,)

    return framed(GainsState, init, step, kept='prev_sign')


def _sign(grad: jax.Array) -> jax.Array:
    """-1, 0 or 1 as int8; 0 for NaN, which has no sign to keep."""
    return (grad > 0).astype(jnp.int8) - (grad < 0).astype(jnp.int8)
