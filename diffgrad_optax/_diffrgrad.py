"""diffRGrad: rectified Adam with the friction of a changing gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import at_least_float32, real_dtype, stable_dtypes
from diffgrad_optax._moments import bias_correction, scale_by_adam
from diffgrad_optax._with_friction import with_friction
from diffgrad_optax.friction import Friction


def diffrgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    threshold: jax.typing.ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    friction: str | Friction = 'dfc',
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The diffRGrad optimizer: diffGrad on RAdam, which warms itself up.

    .. math::

        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}
                          {(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}} \\
        \theta_{t+1} &= \theta_t - \alpha_t\, \xi_t \cdot
            \begin{cases}
                r_t\, \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
                    & \rho_t \ge \rho_\min \\
                \hat m_t & \text{otherwise}
            \end{cases}

    with the moments, :math:`\xi_t` and symbols of :func:`diffgrad`, and
    :math:`\rho_\min` `threshold`: friction around `optax.scale_by_radam`, and a
    learning rate.

    Reach for it where you would write a warm-up by hand: the second moment is not
    divided by before enough gradients are seen (five steps with the defaults), and
    those first steps are as long as the gradient is large.

    Memory and dtypes: as :func:`diffgrad`, three arrays per parameter.

    Deviations: RAdam's paper takes :math:`\rho_t > 4`; the 5 here is its code's and
    optax's. The published diffRGrad code adds ε before the second moment is
    bias-corrected; here it is added after, as in optax. :math:`\rho_t` is computed
    without the difference of two numbers near :math:`\rho_\infty`, for which
    `optax.scale_by_radam` is wrong by up to a percent in float32 at `b2` 0.999, and
    rectifies too early from 0.9995 on.

    Args:
      learning_rate: :math:`\alpha_t`, a number >= 0 or a schedule. Traceable.
      b1: decay rate of the first moment, in [0, 1). Traceable.
      b2: decay rate of the second moment, in [0, 1). Traceable.
      eps: added to the denominator outside the root, >= 0. Traceable.
      eps_root: added to the denominator inside the root, >= 0. Traceable.
      threshold: the :math:`\rho_t` from which on the second moment is used, at
        least 4, below which :math:`r_t` does not exist. 5 is never reached
        with `b2` below 2/3, where :math:`\rho_\infty < 5`. Traceable.
      nesterov: as :func:`diffgrad`. Static.
      friction: as :func:`diffgrad`. Static.
      mu_dtype: as :func:`diffgrad`. Static.
      nu_dtype: as :func:`diffgrad`. Static.
      prev_grad_dtype: as :func:`diffgrad`. Static.

    Returns:
      A transformation whose state is the chain's tuple, :class:`FrictionState`
      first. Updates have the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: the first steps are the gradient times ξ, whatever its size.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import diffrgrad
    >>> optimizer = diffrgrad(1.0)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([2.0, 0.01]), state)
    ...     print(updates.tolist())
    [-1.7616, -0.0050]
    [-1.0000, -0.0050]

    References:
      Dubey et al., `diffGrad: An Optimization Method for Convolutional Neural
      Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020.
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond
      <https://arxiv.org/abs/1908.03265>`_, ICLR 2020, Algorithm 2.
    """
    check(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    check(threshold=threshold, nesterov=nesterov)
    radam = _scale_by_radam(
        b1, b2, eps, eps_root, threshold, mu_dtype, nu_dtype, nesterov=nesterov
    )
    chain = optax.chain(
        with_friction(radam, friction, prev_grad_dtype=prev_grad_dtype),
        optax.scale_by_learning_rate(learning_rate),
    )
    return stable_dtypes(chain)


def _scale_by_radam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike,
    threshold: jax.typing.ArrayLike,
    mu_dtype: Any,
    nu_dtype: Any,
    *,
    nesterov: bool,
) -> optax.GradientTransformation:
    """Adam's direction times r_t; the first moment alone while ρ_t < threshold."""
    adam = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov=nesterov)

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        directions, state = adam.update(updates, state, params)
        t = state.count
        # Nesterov's momentum is that of the next step, as far as steps are counted.
        t_mu = optax.safe_increment(t) if nesterov else t

        @functools.cache
        def rectification(dtype: np.dtype[Any]) -> tuple[jax.Array, jax.Array]:
            ρ, ρ_inf = _lengths(b2, t, dtype)
            rectifies = ρ >= threshold
            now = (ρ - 4) * (ρ - 2) * ρ_inf
            at_last = (ρ_inf - 4) * (ρ_inf - 2) * ρ
            # Where nothing is rectified, quotient and root may not exist.
            r = jnp.where(rectifies, now, 1) / jnp.where(rectifies, at_last, 1)
            return rectifies, jnp.sqrt(r)

        def rectify(grad: jax.Array, direction: jax.Array, mu: jax.Array) -> jax.Array:
            wide = at_least_float32(grad, direction, mu)
            real = real_dtype(wide)
            β1 = jnp.asarray(b1, real)
            m_hat = mu.astype(wide) / bias_correction(b1, t_mu, real)
            if nesterov:
                g_hat = grad.astype(wide) / bias_correction(b1, t, real)
                m_hat = β1 * m_hat + (1 - β1) * g_hat
            rectifies, r = rectification(real)
            return jnp.where(rectifies, r * direction.astype(wide), m_hat)

        return jax.tree.map(rectify, updates, directions, state.mu), state

    return optax.GradientTransformation(adam.init, update_fn)


def _lengths(
    b2: jax.typing.ArrayLike, t: jax.Array, dtype: np.dtype[Any]
) -> tuple[jax.Array, jax.Array]:
    """ρ_t and ρ_∞: how many gradients the second moment averages, now and at last."""
    # With x = -log β₂, ρ_∞ = coth(x/2) and ρ_t = ρ_∞ - 2t / (e^{tx} - 1). While tx is
    # small both terms are near 2/x, and their difference loses its digits. With
    # L(y) = coth y - 1/y the two 2/x cancel: ρ_t = t + L(x/2) - t L(tx/2).
    # For β₂ <= ½ both are 3 at most, and nothing is rectified: there it counts as ½.
    t = t.astype(dtype)
    half = -jnp.log(jnp.maximum(jnp.asarray(b2, dtype), 0.5)) / 2
    ρ_inf = 1 / jnp.tanh(half)
    early = t + _langevin(half) - t * _langevin(t * half)
    # As 2t e^{-tx} / (1 - e^{-tx}), which does not overflow.
    late = ρ_inf + 2 * t * jnp.exp(-2 * t * half) / jnp.expm1(-2 * t * half)
    return jnp.where(t * half < 0.1, early, late), ρ_inf


def _langevin(y: jax.Array) -> jax.Array:
    """L(y) = coth y - 1/y for 0 < y <= 0.1, constant above."""
    y = jnp.minimum(y, 0.1)
    return y * (1 / 3 - y**2 * (1 / 45 - y**2 * (2 / 945 - y**2 / 4725)))
