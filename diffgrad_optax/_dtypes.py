"""The dtypes that arithmetic, storage and updates use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax._fit import as_arrays


def at_least_float32(*arrays: Any) -> np.dtype[Any]:
    """The dtype that holds all inexact `arrays` exactly, and never less than float32.

    NumPy's promotion, one dtype at a time, knows every storage dtype (bfloat16 and
    the 8-bit floats too) and does not depend on `jax_numpy_dtype_promotion`.
    """
    dtypes = [jnp.result_type(array) for array in arrays]
    inexact = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    wide = [np.promote_types(dtype, np.float32) for dtype in inexact]
    return np.result_type(np.float32, *wide)


def widened(tree: Any) -> Any:
    """`tree` with its inexact arrays in float32 at least."""

    def widen(leaf: Any) -> Any:
        inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return jnp.asarray(leaf, at_least_float32(leaf)) if inexact else leaf

    return jax.tree.map(widen, tree)


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the modulus of numbers of `dtype`."""
    return np.dtype(f'f{dtype.itemsize // 2}') if dtype.kind == 'c' else dtype


def scalar(number: jax.typing.ArrayLike, *arrays: jax.Array) -> jax.Array:
    """`number` in the real dtype of `arrays`, so that it promotes none of them."""
    return jnp.asarray(number, real_dtype(at_least_float32(*arrays)))


def keep_state_dtypes(state: Any, prev_state: Any) -> Any:
    """`state` with the floating dtypes of `prev_state`.

    optax widens some moments to the gradients' dtype at the first step, which the
    carry of a scan or a cond does not survive. A leaf that `prev_state` lacks stays as
    it is: `optax.monitor` adds its measurements at the first step.
    """
    prev_leaves = dict(jax.tree.leaves_with_path(prev_state))

    def cast(path: Any, leaf: Any) -> Any:
        dtype = getattr(prev_leaves.get(path), 'dtype', None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            return leaf  # a new leaf, a count, a typed PRNG key
        return jnp.asarray(leaf, dtype)

    return jax.tree.map_with_path(cast, state)


def stable_dtypes(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`inner` with updates in the gradients' dtypes and state in those of its `init`.

    optax's learning rate (as an array) and weight decay (of wider parameters)
    would otherwise promote the updates, and wider gradients its moments.
    """

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        grads = as_arrays(updates)
        updates, new_state = inner.update(grads, state, params, **extra_args)
        updates = as_arrays(updates, "inner's update")
        return optax.tree.cast_like(updates, grads), keep_state_dtypes(new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
