"""What is there for a compiler alone."""

from typing import TypeVar

from jax import lax

Tree = TypeVar('Tree')


def hidden_from_optimization(tree: Tree) -> Tree:
    """`tree`, so that XLA does not know what it is computed from.

    A computation that is written twice, the second time of hidden arrays, is compiled
    twice. XLA:GPU, and XLA:CPU since jax 0.12, would else merge both: see
    `test_8_bit_steps_are_written_twice_with_a_barrier_between`. A hidden constant is no
    part of a kernel. XLA:GPU would else compile a kernel for each value: see
    `test_parameters_of_one_shape_have_one_kernel_on_a_gpu`. XLA:CPU of jax 0.10 drops
    barriers before it makes kernels.
    """
    hidden: Tree = lax.optimization_barrier(tree)  # type: ignore[no-untyped-call]
    return hidden
