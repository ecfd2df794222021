"""What is written as it is for a compiler: no other file of the algorithms knows of it.

Each function says what it must achieve, which compiler does what without it, and which
test fails then. All were needed with jax 0.7 to 0.12: try without them from 0.13 on.

Three orders of operations elsewhere are for a compiler too:

- AdaDiff adds ε to the squares before the decayed moment. XLA:CPU computes a moment
  that ends in a constant once more for each of its readers (benchmarks.update).
- Gains are clipped in each case, not after the choice. XLA:CPU copies gains whose
  choice is clipped (test_compiled.py, test_an_update_in_place_copies_no_array).
- MARS's correction reads the previous gradient once more before that is written over.
  XLA:GPU writes the gradient in the update's kernel only then (test_compiled.py,
  test_on_a_gpu_too_the_previous_gradient_waits).
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffgrad_optax._dtypes import at_least_float32
from diffgrad_optax._sharding import placed_like

Tree = TypeVar('Tree')


def write_after(new: jax.Array, over: jax.Array, *read: Any) -> jax.Array:
    """`new`, to be written over the donated `over` after all of `read` is computed.

    XLA copies a gradient that is returned as it is into the buffer of the previous one.
    As nothing tells it that the previous one has been read by then, it saves that one
    first: two copies by one thread on a CPU, a kernel beside the update's on a GPU
    (test_compiled.py, test_the_bare_gradient_as_state_would_be_copied). Outside jit the
    caller's gradient itself would become the state, and be deleted when the state is
    donated (test_contract.py, test_no_two_arrays_of_the_state_or_outside_it_share...).

    So the write selects by a condition that is computed from the sum of `read` and
    never holds, which XLA does not see. XLA:CPU, which writes one array in each loop,
    then writes this one last, and keeps friction in its buffer until then. XLA:GPU
    writes it in the update's kernel. An optimization barrier would say so plainly, but
    XLA:CPU drops barriers before it assigns buffers.

    Args:
      new: what is written.
      over: the array that it replaces, of the same shape and dtype.
      *read: arrays of this shape, or lists of them.
    """
    arrays = [_bits(array) for array in jax.tree.leaves(read)]
    dtype = at_least_float32(*arrays)
    total = functools.reduce(lax.add, (array.astype(dtype) for array in arrays))
    # `lax.select` takes only arrays that are sharded alike, and neither a gradient nor
    # a constant friction has to be sharded like its parameter.
    new = placed_like(new, over)
    false = placed_like(false_like(total), new)
    return lax.select(false, false.astype(new.dtype), new)


def _bits(array: jax.Array) -> jax.Array:
    """The real parts of `array`; of a narrow one the bits, as integers.

    XLA would take narrow numbers before their rounding, compute those once more, and
    copy what they are computed from (test_compiled.py: test_nor_does_one_in_bfloat16).
    """
    real = jnp.real(array)
    bits = 8 * real.dtype.itemsize
    return real if bits >= 32 else lax.bitcast_convert_type(real, f'uint{bits}')


def false_like(array: jax.Array) -> jax.Array:
    """False everywhere, computed from `array` and, if it is inexact, sharded like it.

    It is x < x, which is false for NaN too. XLA sees that for integers only, and makes
    a constant of it, which need not be sharded like `array` (test_sharding.py).
    """
    real = jnp.real(array)
    return lax.lt(real, real)


def hidden_from_optimization(tree: Tree) -> Tree:
    """`tree`, so that XLA does not know what it is computed from.

    A computation that is written twice, the second time of hidden arrays, is compiled
    twice. XLA:GPU, and XLA:CPU since jax 0.12, would else merge both: see
    `test_8_bit_steps_are_written_twice_with_a_barrier_between`.
    """
    hidden: Tree = lax.optimization_barrier(tree)  # type: ignore[no-untyped-call]
    return hidden


@functools.partial(jax.jit, static_argnums=0)
def hidden_constants(values: tuple[int, ...], count: Any) -> list[jax.Array]:
    def from_memory(count: jax.Array) -> list[jax.Array]:
        index = (count < 0).astype(jnp.int32)
        pairs = [jnp.array([v, v ^ 0xFFFFFFFF], jnp.uint32) for v in values]
        return [lax.dynamic_index_in_dim(p, index, keepdims=False) for p in pairs]

    def behind_barriers(count: jax.Array) -> list[jax.Array]:
        return [hidden_from_optimization(np.uint32(v)) for v in values]

    return lax.platform_dependent(
        jnp.asarray(count), cpu=from_memory, default=behind_barriers
    )
