"""RAdam: Adam whose first steps are rectified, with a threshold of one's own."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import scalar, widened
from diffgrad_optax._moments import bias_correction, scale_by_adam


def scale_by_radam(
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
    check(threshold=threshold)
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
        rectification = cache(partial(_rectification, b2, t, threshold))

        def rectify(g: jax.Array, direction: jax.Array, m: jax.Array) -> jax.Array:
            β1 = scalar(b1, g, direction, m)
            m_hat = m / bias_correction(b1, t_mu, β1.dtype)
            if nesterov:
                g_hat = g / bias_correction(b1, t, β1.dtype)
                m_hat = β1 * m_hat + (1 - β1) * g_hat
            rectifies, r = rectification(β1.dtype)
            return jnp.where(rectifies, r * direction, m_hat)

        wide = widened((updates, directions, state.mu))
        return jax.tree.map(rectify, *wide), state

    return optax.GradientTransformation(adam.init, update_fn)


def _rectification(
    b2: jax.typing.ArrayLike,
    t: jax.Array,
    threshold: jax.typing.ArrayLike,
    dtype: np.dtype[Any],
) -> tuple[jax.Array, jax.Array]:
    """Whether steps are rectified, and by which r_t."""
    ρ, ρ_inf = _lengths(b2, t, dtype)
    rectifies = ρ >= threshold
    # Where nothing is rectified, quotient and root may not exist.
    ρ, ρ_inf = jnp.where(rectifies, ρ, 5), jnp.where(rectifies, ρ_inf, 5)
    r = (ρ - 4) * (ρ - 2) * ρ_inf / ((ρ_inf - 4) * (ρ_inf - 2) * ρ)
    return rectifies, jnp.sqrt(r)


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
