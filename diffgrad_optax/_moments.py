"""Exponential averages that start at zero: their storage and their correction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import (
    at_least_float32,
    real_dtype,
    storage_dtype,
    widened,
    zeros_stored,
)
from diffgrad_optax._fit import check_state
from diffgrad_optax._frame import following_params
from diffgrad_optax._params import check_can_hold


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
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, both of whose moments may be stored in fewer bits.

    Where a moment has a dtype of its own, gradients and moments are widened to
    float32 first: 8-bit floating numbers have no arithmetic, and the square of a
    float16 gradient below 2e-4 is 0. The caller casts the new moments back, as for
    any inner transformation: `keep_state_dtypes`. A second moment in `nu_dtype` is
    real, where `optax.scale_by_adam` has a complex one for complex parameters.

    Raises:
      TypeError: if a dtype is no floating one, if `nu_dtype` is complex, or (by `init`)
        if `mu_dtype` is real and a parameter is complex.
    """
    check(mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    dtypes = {'mu': storage_dtype(mu_dtype), 'nu': storage_dtype(nu_dtype)}
    dtypes = {name: dtype for name, dtype in dtypes.items() if dtype is not None}
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)

    @following_params
    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        check_can_hold('mu_dtype', dtypes.get('mu'), params)
        moments = {
            name: jax.tree.map(lambda p, d=dtype: zeros_stored(p, d), params)
            for name, dtype in dtypes.items()
        }
        return adam.init(params)._replace(**moments)

    def wide_as(moment: jax.Array, grad: jax.Array) -> jax.Array:
        wide = at_least_float32(moment, grad)
        return moment.astype(wide if jnp.iscomplexobj(moment) else real_dtype(wide))

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        check_state(state, optax.ScaleByAdamState)
        if dtypes:
            updates = widened(updates)
            moments = {
                name: jax.tree.map(wide_as, getattr(state, name), updates)
                for name in dtypes
            }
            state = state._replace(**moments)
        updates, state = adam.update(updates, state, params)
        return updates, state

    return optax.GradientTransformation(init_fn, update_fn)
