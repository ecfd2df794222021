"""What is written as it is for a compiler: no other file of the algorithms knows of it.

Each function says what it must achieve, which compiler does what without it, and which
test fails then. All were needed with jax 0.7 to 0.12: try without them from 0.13 on.

Four orders of operations elsewhere are for a compiler too:

- AdaDiff adds ε to the squares before the decayed moment. XLA:CPU computes a moment
  that ends in a constant once more for each of its readers (benchmarks.update).
- Gains are clipped in each case, not after the choice. XLA:CPU copies gains whose
  choice is clipped (test_compiled.py, test_an_update_in_place_copies_no_array).
- MARS's correction reads the previous gradient once more before that is written over.
  XLA:GPU writes the gradient in the update's kernel only then (test_compiled.py,
  test_on_a_gpu_too_the_previous_gradient_waits).
- The hash of an 8-bit array's places adds all places first, then the parameter's seed.
  XLA would compute what parameters of one shape have in common, or the terms of one
  axis, apart, and join the updates of all that read it (test_compiled.py,
  test_parameters_of_one_shape_do_not_share_it).
"""

import functools
import math
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
    twice. XLA:GPU, and XLA:CPU since jax 0.12, would else merge both (test_compiled.py,
    test_8_bit_steps_are_written_twice_with_a_barrier_between).
    """
    hidden: Tree = lax.optimization_barrier(tree)  # type: ignore[no-untyped-call]
    return hidden


@functools.partial(jax.jit, static_argnums=0)
def hidden_constants(values: tuple[int, ...], count: jax.Array) -> list[jax.Array]:
    """`values` in uint32, so that kernels read them: any `count` >= 0 must be given.

    XLA makes a constant part of each kernel that uses it, so that arrays of one shape
    whose updates differ in a constant would have a kernel each, each to be compiled. On
    a GPU a barrier keeps constants out (test_compiled.py,
    test_parameters_of_one_shape_have_one_kernel_on_a_gpu). XLA:CPU of jax 0.10 drops
    barriers before it makes kernels. It leaves arrays in memory, and cannot know which
    element of one is taken (test_parameters_of_one_shape_have_one_kernel_on_a_cpu).
    """

    def from_memory(count: jax.Array) -> list[jax.Array]:
        second = (count >= 0).astype(jnp.int32)
        return [
            lax.dynamic_index_in_dim(jnp.array([~x, x]), second, keepdims=False)
            for x in map(np.uint32, values)
        ]

    def behind_barriers(count: jax.Array) -> list[jax.Array]:
        # Like `count`, which may differ between devices, as those from memory do.
        constants = [jnp.full_like(count, value, jnp.uint32) for value in values]
        return [hidden_from_optimization(constant) for constant in constants]

    constants: list[jax.Array] = lax.platform_dependent(
        jnp.asarray(count), cpu=from_memory, default=behind_barriers
    )
    return constants


def largest_of_blocks(x: jax.Array, fits: jax.Array, block: int) -> jax.Array:
    """The largest of each block of float32 elements >= 0; NaN if one does not fit.

    Bits have the order of their floats, and those of NaN come last. XLA:CPU finds the
    largest of integers by vectors, if they lie in rows of as many. It compares floats
    one by one, and in large arrays overlooks NaN (test_compiled.py,
    test_8_bit_scales_are_the_largest_of_integers_in_rows; test_quantize.py,
    test_nan_spoils_a_block_of_any_size).
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    bits = jnp.where(fits, bits, np.float32(np.nan).view(np.int32))
    lanes = math.gcd(block, 32)  # two vectors of 16 or four of 8
    rows = bits.reshape(*x.shape[:-1], -1, block // lanes, lanes)
    return lax.bitcast_convert_type(jnp.max(rows, axis=(-2, -1)), jnp.float32)


def small_integers(x: jax.Array) -> jax.Array:
    """Whole float32 numbers from -2²² to 2²² as int32, for arithmetic of integers.

    XLA's own conversion asks each element whether it fits. Instead, 1.5 · 2²³ is added,
    and leaves the number in the low bits of the float. Where the lowest byte of these
    is stored as it is, ptxas of CUDA 12.9 stores the float converted to a byte: 255
    (test_quantize.py, test_codes_come_from_a_choice_of_integers).
    """
    shift = np.float32(1.5 * 2**23)
    return lax.bitcast_convert_type(x + shift, jnp.int32) - shift.view(np.int32)
