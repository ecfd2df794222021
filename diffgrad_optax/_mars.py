"""MARS: variance reduction by the difference of two gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import scalar
from diffgrad_optax._frame import Stepped, framed
from diffgrad_optax._moments import scale_by_adam
from diffgrad_optax._optimizer import Mask, optimizer
from diffgrad_optax._params import zeros


class CorrectByDifferenceState(NamedTuple):
    """State of :func:`correct_by_difference`."""

    prev_grad: optax.Updates  #: g_{t-1}, shaped like params, dtype prev_grad_dtype.


def correct_by_difference(
    gamma: jax.typing.ArrayLike = 0.025,
    b1: jax.typing.ArrayLike = 0.95,
    *,
    max_norm: jax.typing.ArrayLike = 1.0,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS's corrected gradient, to put before any optimizer.

    .. math::

        c_t = g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad
        u_t = c_t \min\left(1, \frac{\tau}{\lVert c_t \rVert_2}\right)

    with :math:`g_0 = 0` and the norm of each array of the tree, :math:`\gamma`
    `gamma`, :math:`\beta_1` `b1` and :math:`\tau` `max_norm`. Momentum with decay
    :math:`\beta_1` of :math:`c_t` is momentum that looks ahead along the change of
    the gradient; :math:`\gamma = 1` would take all of it.

    Use it in language-model training, before `optax.scale_by_adam`,
    `optax.scale_by_lion` or `optax.contrib.muon`, with the decay of their momentum:
    `b1` of Adam, `b2` of Lion. :func:`mars` is it before AdamW.

    Memory: one array per parameter. Time: one pass more and one sum per array.

    Deviation: the published code corrects matrices only, and trains all other arrays
    with AdamW at settings of their own. Here all are corrected; leave some out with
    `optax.masked`.

    Args:
      gamma: the part of the correction that is made, >= 0. Traceable.
      b1: decay rate of the momentum that follows, in [0, 1). Traceable.
      max_norm: the largest norm of an array of :math:`c_t`, >= 0; infinity for no
        clipping. Very large and very small norms: :doc:`/docs/limits`. Traceable.
      prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation with state :class:`CorrectByDifferenceState`. Updates have
      the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import correct_by_difference
    >>> optimizer = correct_by_difference(gamma=0.5, b1=0.5)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for grads in (jnp.array([0.2, 0.0]), jnp.array([0.2, 0.2])):
    ...     updates, state = optimizer.update(grads, state)
    ...     print(updates)
    [0.3 0. ]
    [0.2 0.3]

    References:
      Yuan et al., `MARS: Unleashing the Power of Variance Reduction for Training
      Large Models <https://arxiv.org/abs/2411.10438>`_, 2024: Algorithm 1 in its
      approximate form.
    """
    check(gamma=gamma, b1=b1, max_norm=max_norm, prev_grad_dtype=prev_grad_dtype)

    def init(params: optax.Params) -> CorrectByDifferenceState:
        prev_grad = zeros(params, prev_grad_dtype=prev_grad_dtype)
        return CorrectByDifferenceState(prev_grad)

    def corrected(g: jax.Array, q: jax.Array) -> jax.Array:
        γ, β1, τ = (scalar(x, g, q) for x in (gamma, b1, max_norm))
        c = g + γ * β1 / (1 - β1) * (g - q)
        norm = jnp.sqrt(jnp.sum(jnp.abs(c) ** 2))
        clips = norm > τ
        # An array of zeros has no norm to divide by, and is not clipped.
        return c * jnp.where(clips, τ / jnp.where(clips, norm, 1), 1)

    def step(
        grads: optax.Updates, state: CorrectByDifferenceState, **_: Any
    ) -> Stepped:
        updates = jax.tree.map(corrected, grads, state.prev_grad)
        read = updates, state.prev_grad
        return updates, CorrectByDifferenceState(prev_grad=grads), read

    return framed(CorrectByDifferenceState, init, step)


def mars(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    gamma: jax.typing.ArrayLike = 0.025,
    max_norm: jax.typing.ArrayLike = 1.0,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-AdamW: AdamW of gradients corrected by their own difference.

    .. math::

        \theta_{t+1} = \theta_t - \alpha_t \left(
            \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}
            + \lambda \theta_t \right)

    where :math:`\hat m_t` and :math:`\hat v_t` are Adam's bias-corrected moments of
    :func:`correct_by_difference`'s :math:`u_t`. `b1` is the decay of the first moment
    and the one in the correction.

    Use it where you would use AdamW on a language model; the authors' γ is small, and
    with `gamma=0` it is AdamW with clipping by array. For Lion or Muon put
    :func:`correct_by_difference` before them, which has the deviations too.

    Memory: three arrays per parameter, one more than AdamW. In float16 a previous
    gradient can overflow, and the next step is NaN: :doc:`/docs/limits`.

    Args:
      learning_rate, b1, b2, eps: as :func:`diffgrad`.
      gamma, max_norm: as :func:`correct_by_difference`.
      weight_decay, mask: as :func:`diffgrad`.
      mu_dtype, nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation whose state is the chain's tuple,
      :class:`CorrectByDifferenceState` first. Updates have the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: a shrinking gradient shortens the step sooner than Adam's.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import mars
    >>> params = jnp.zeros(1)
    >>> for optimizer in (optax.adam(0.1, 0.95, 0.99), mars(0.1, gamma=0.05)):
    ...     state = optimizer.init(params)
    ...     for g in (0.5, 0.1):
    ...         updates, state = optimizer.update(jnp.array([g]), state, params)
    ...     print(updates)
    [-0.0820]
    [-0.0463]

    References:
      Yuan et al., `MARS: Unleashing the Power of Variance Reduction for Training
      Large Models <https://arxiv.org/abs/2411.10438>`_, 2024: MARS-AdamW.
    """
    corrected = correct_by_difference(
        gamma, b1, max_norm=max_norm, prev_grad_dtype=prev_grad_dtype
    )
    adam = scale_by_adam(b1, b2, eps, 0.0, mu_dtype, nu_dtype)
    return optimizer(learning_rate, weight_decay, mask, corrected, adam)
