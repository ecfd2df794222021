"""Exponential averages that start at zero: their storage and their correction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import widened
from diffgrad_optax._fit import check_state
from diffgrad_optax._frame import following_params
from diffgrad_optax._params import zeros


def bias_correction(
    decay: jax.typing.ArrayLike, count: jax.Array, dtype: np.dtype[Any]
) -> jax.Array:
    """1 - decay^count, by which an average of `count` values is divided.

    By logarithms, because the difference itself loses four digits in float32 where
    decay is near 1, and not the same ones in every compilation. Where it is not, as
    the difference, which has a derivative at 0 too.
    """
    decay, t = jnp.asarray(decay, dtype), count.astype(dtype)
    small = decay < 0.5
    by_logarithms = -jnp.expm1(t * jnp.log(jnp.where(small, 0.5, decay)))
    return jnp.where(small, 1 - decay**t, by_logarithms)


def scale_by_adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike,
    mu_dtype: Any,
    nu_dtype: Any,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, both of whose moments may be stored in fewer bits.

    If one has a dtype of its own, gradients and both moments are widened to float32
    first: 8-bit floating numbers have no arithmetic, and the square of a float16
    gradient below 2e-4 is 0. The caller casts the new moments back, as for
    any inner transformation: `keep_state_dtypes`. A second moment in `nu_dtype` is
    real, where `optax.scale_by_adam` has a complex one for complex parameters.

    Raises:
      ValueError, TypeError: if an argument is not what the table of checks allows, or
        (by `init`) if `mu_dtype` is real and a parameter is complex.
    """
    check(b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)
    check(mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)

    @following_params
    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        state = adam.init(params)
        if mu_dtype is not None:
            state = state._replace(mu=zeros(params, mu_dtype=mu_dtype))
        if nu_dtype is not None:
            state = state._replace(nu=zeros(params, nu_dtype=nu_dtype, real=True))
        return state

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        check_state(state, optax.ScaleByAdamState)
        if mu_dtype is not None or nu_dtype is not None:
            state = state._replace(mu=widened(state.mu), nu=widened(state.nu))
            updates = widened(updates)
        directions, state = adam.update(updates, state, params)
        return directions, state

    return optax.GradientTransformation(init_fn, update_fn)
