"""Keeping the previous gradient: its storage, its first value, its successor."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffgrad_optax._dtypes import at_least_float32, zeros_stored
from diffgrad_optax._params import check_can_hold, check_inexact, check_one_set
from diffgrad_optax._sharding import false_like, placed_like


def init_previous(params: Any, dtype: np.dtype[Any] | None) -> Any:
    """Zeros shaped like `params`: the gradient before the first step.

    Args:
      params: a tree of arrays, shape-dtype structs or placeholders.
      dtype: what to store, from `storage_dtype`; None keeps each leaf's own.

    Raises:
      TypeError: if a leaf is neither floating nor complex, or is complex and would be
        stored in a real dtype, or if `params` are two sets of parameters.
    """
    check_one_set(params)
    check_inexact(params)
    check_can_hold('prev_grad_dtype', dtype, params)
    return jax.tree.map(lambda param: zeros_stored(param, dtype), params)


def next_previous(grads: Any, prev_grads: Any, *earlier: Any) -> Any:
    """`grads` as the next step's previous gradient, in the dtypes of `prev_grads`.

    Args:
      grads: the gradients of this step.
      prev_grads: those of the step before.
      *earlier: what is computed or read before the result is written, each with an
        array or a list of them, of the same shape, for each leaf.
    """

    # Were `grads` returned as they are, XLA would copy them into the donated buffers of
    # `prev_grads`, and, as nothing tells it that those have been read by then, save
    # those first: two copies by one thread on a CPU, a kernel beside the update's on a
    # GPU. Outside jit the caller's gradient itself would become the state, and be
    # deleted when the state is donated.
    #
    # So each write waits for `earlier`: it selects by a condition that is computed from
    # their sum and never holds, which XLA does not see. (An optimization barrier would
    # say so plainly, but XLA:CPU drops barriers before it assigns buffers.) XLA:CPU,
    # which writes one array in each loop, then writes this one last, and friction lies
    # in its buffer until then; XLA:GPU writes it in the update's kernel.
    def written(grad: jax.Array, prev_grad: jax.Array, *earlier: Any) -> jax.Array:
        arrays = [_numbers(array) for array in jax.tree.leaves(earlier)]
        dtype = at_least_float32(*arrays)
        total = functools.reduce(lax.add, (array.astype(dtype) for array in arrays))
        # `lax.select` takes only arrays that are sharded alike, and neither a gradient
        # nor a constant friction has to be sharded like its parameter.
        stored = placed_like(grad, prev_grad)
        false = placed_like(false_like(total), stored)
        stored, never = (x.astype(prev_grad.dtype) for x in (stored, false))
        return lax.select(false, never, stored)

    return jax.tree.map(written, grads, prev_grads, *earlier)


def _numbers(array: jax.Array) -> jax.Array:
    """The real parts of `array`; of a narrow one the bits, as integers.

    XLA would take narrow numbers before their rounding, compute those once more, and
    copy what they are computed from.
    """
    real = jnp.real(array)
    bits = 8 * real.dtype.itemsize
    return real if bits >= 32 else lax.bitcast_convert_type(real, f'uint{bits}')
