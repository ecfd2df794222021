"""What of JAX is timed: compiled updates, the gradient alone, a copy."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks import gradients, trees
from benchmarks.cli import UserError
from benchmarks.timing import Arm, Running
from diffgrad_optax import diffgrad, quantize_state


def naive_diffgrad(learning_rate: float) -> optax.GradientTransformation:
    """What one would write first: friction after Adam, the gradient as the state."""
    adam = optax.adam(learning_rate)

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), adam.init(params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        prev_grads, adam_state = state
        updates, adam_state = adam.update(grads, adam_state, params)
        updates = jax.tree.map(
            lambda u, g, q: jax.nn.sigmoid(jnp.abs(q - g)) * u,
            updates,
            grads,
            prev_grads,
        )
        return updates, (grads, adam_state)

    return optax.GradientTransformation(init, update)


OPTIMIZERS = {
    'optax.adam': optax.adam(1e-3),
    'naive composition': naive_diffgrad(1e-3),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype=jnp.bfloat16),
    'diffgrad, 8-bit state': quantize_state(diffgrad(1e-3)),
}

# How many updates a program makes. To hand one hundreds of arrays may take the host
# longer than it takes a GPU to update them, and training has more to do meanwhile.
REPEATS = {'cpu': 1, 'gpu': 10}
# XLA for a GPU would try out tens of kernels for each product of matrices, which takes
# minutes; gradients here are products, and no update has one.
WITHOUT_TRIALS = {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}
COMPILER_OPTIONS = {'cpu': {}, 'gpu': WITHOUT_TRIALS}


def backend() -> str:
    """What JAX computes on, 'cpu' or 'gpu'.

    Raises:
      UserError: if it is something else, which nothing here was made for.
    """
    if (name := jax.default_backend()) not in REPEATS:
        raise UserError(f'the benchmarks are of {" and ".join(REPEATS)}, not of {name}')
    return name


class Compiled(NamedTuple):
    """A program and what it took to make it."""

    program: Any
    trace_seconds: float  # to StableHLO
    compile_seconds: float


def make_step(
    optimizer: optax.GradientTransformation, gradient: Any, repeats: int = 1
) -> Any:
    """Updates, each with the gradient made inside; parameters and state are donated."""

    def step(carry: tuple[Any, Any], factors: Any) -> tuple[Any, Any]:
        params, state = carry
        grads = gradient(params, factors)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def steps(params: Any, state: Any, factors: Any) -> tuple[Any, Any]:
        return repeated(step, repeats)((params, state), factors)

    return jax.jit(steps, donate_argnums=(0, 1))


def repeated(
    step: Callable[[Any, Any], Any], repeats: int
) -> Callable[[Any, Any], Any]:
    """What takes a carry through `step(carry, factors)`, `repeats` times."""

    def steps(carry: Any, factors: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            # Or the product of factors, the same each time, would be made once.
            return step(*lax.optimization_barrier((carry, factors)))

        return lax.fori_loop(0, repeats, body, carry)

    return step if repeats == 1 else steps


def compile_step(
    optimizer: optax.GradientTransformation,
    gradient: Any,
    tree: Any,
    factors: Any,
    repeats: int = 1,
) -> Compiled:
    """Traces, lowers and compiles `make_step` for parameters like `tree`."""
    # What every trace in a process shares is not part of this one.
    small = trees.cast(trees.smoke(), jax.tree.leaves(tree)[0].dtype)
    lower_step(optimizer, gradient, small, gradients.factors(small))
    state = jax.eval_shape(optimizer.init, tree)
    start = time.perf_counter()
    lowered = make_step(optimizer, gradient, repeats).lower(tree, state, factors)
    middle = time.perf_counter()
    program = lowered.compile(COMPILER_OPTIONS[backend()])
    return Compiled(program, middle - start, time.perf_counter() - middle)


def lower_step(
    optimizer: optax.GradientTransformation, gradient: Any, tree: Any, factors: Any
) -> Any:
    """Traces and lowers `make_step`."""
    state = jax.eval_shape(optimizer.init, tree)
    return make_step(optimizer, gradient).lower(tree, state, factors)


def update_arm(
    program: Any,
    optimizer: optax.GradientTransformation,
    tree: Any,
    factors: Any,
    repeats: int = 1,
) -> Arm:
    """Steps of a program compiled by `compile_step`."""

    # One program, not one for each shape of array. Of a value that XLA does not know,
    # or it would compute the state itself.
    @jax.jit
    def start(value: float) -> tuple[Any, Any]:
        params = trees.full(tree, value)
        return params, optimizer.init(params)

    def arm() -> Running:
        carry = [*start(0.01)]

        def call() -> None:
            carry[:] = program(*carry, factors)

        return Running(call, lambda: jax.block_until_ready(carry), repeats)

    return arm


def gradient_arm(tree: Any, factors: Any, repeats: int = 1) -> Arm:
    """The materialized gradient alone, in temporary memory as in a step.

    On a CPU that memory is new in every step, and the system clears its pages, which
    takes longer than the product. One number of each array is read, at a place that
    XLA does not know, so that it makes them whole.
    """

    def number(grad: jax.Array, place: jax.Array) -> jax.Array:
        # Widened, or XLA for a GPU has two kernels for each of bfloat16.
        one = lax.dynamic_slice(grad, (place,) * grad.ndim, (1,) * grad.ndim)
        return one.astype(jnp.float32).sum()

    @jax.jit
    def steps(params: Any, factors: Any, place: jax.Array) -> jax.Array:
        def step(total: jax.Array, factors: Any) -> jax.Array:
            grads = jax.tree.leaves(gradients.materialized(params, factors))
            return sum((number(grad, place) for grad in grads), total)

        return repeated(step, repeats)(jnp.zeros(()), factors)

    place = jnp.zeros((), jnp.int32)
    lowered = steps.lower(tree, factors, place)
    program = lowered.compile(COMPILER_OPTIONS[backend()])
    start = jax.jit(lambda value: trees.full(tree, value))

    def arm() -> Running:
        params = start(0.01)
        carry = []

        def call() -> None:
            carry[:] = [program(params, factors, place)]

        return Running(call, lambda: jax.block_until_ready(carry), repeats)

    return arm


def calls_of(tree: Any) -> int:
    """How many updates of `tree` a sample is: on a GPU some hundredths of a second."""
    few = 1 if backend() == 'cpu' or trees.count(tree) > 2**26 else 10
    return few * REPEATS[backend()]


@functools.partial(jax.jit, donate_argnums=0)
def copy(array: jax.Array, scale: jax.Array) -> jax.Array:
    """Times a number, or XLA would leave the array where it is."""
    return array * scale


def copy_arm(size: int) -> Arm:
    """`size` float32 numbers read and written in place."""

    def arm() -> Running:
        carry, one = [jnp.ones(size)], jnp.ones(())

        def call() -> None:
            carry[:] = [copy(*carry, one)]

        return Running(call, lambda: jax.block_until_ready(carry))

    return arm
