"""One step of the inner transformation, from codes to codes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._dtypes import widened
from diffgrad_optax._fit import first_difference
from diffgrad_optax._paths import arrays_beside
from diffgrad_optax._quantize import codes, dither
from diffgrad_optax._quantize.plan import Code, Coded
from diffgrad_optax._quantize.state import QuantizedState, decode_state
from diffgrad_optax._xla import hidden_from_optimization


def first_state(inner_state: Any, code_of: dict[int, Code]) -> QuantizedState:
    """The first state: the nearest codes of the inner one's arrays."""
    arrays: list[Any]
    treedef: Any
    arrays, treedef = jax.tree.flatten(inner_state)
    scales: list[Any] = [None] * len(arrays)
    for i, code in code_of.items():
        x = arrays[i]
        scales[i] = codes.block_scales(x, *code)
        half = jnp.full_like(x, 0.5, dtype=jnp.float32)
        arrays[i] = codes.encode(x, scales[i], half, code.dtype)
    count = jnp.zeros((), jnp.int32)
    return QuantizedState(count, treedef.unflatten(arrays), treedef.unflatten(scales))


def next_state(
    step: Callable[[Any], Any], state: QuantizedState, plan: dict[int, Coded]
) -> tuple[optax.Updates, QuantizedState]:
    """Updates and the next state.

    `step` makes updates and a new inner state of a decoded one. It is called twice: for
    the new scales alone, then for everything else. A block's scale must be known before
    its first code. Called once, the new state would lie in memory as float32 between
    the two, which moves more bytes than a step without codes. Under jit what no scale
    needs is dropped from the first call.
    """
    old: list[Any]
    treedef: Any
    old, treedef = jax.tree.flatten(state.inner_state)

    def step_from(leaves: list[Any]) -> tuple[optax.Updates, list[Any]]:
        coded = state._replace(inner_state=treedef.unflatten(leaves))
        updates, inner_state = step(decode_state(coded))
        return updates, leaves_of(inner_state, treedef)

    _, arrays = step_from(old)
    old, scales = rescale(arrays, old, plan)
    updates, arrays = step_from(old)
    count = optax.safe_increment(state.count)
    # Like the old codes: the new arrays may be sharded otherwise.
    codes_of = {leaf.parameter: old[i] for i, leaf in plan.items()}
    hashes = dither.parameter_hashes(codes_of, count)
    for i, leaf in plan.items():
        r = dither.thresholds(hashes[leaf.parameter], leaf.field, count)
        arrays[i] = codes.encode(arrays[i], scales[i], r, leaf.code.dtype)
    return updates, QuantizedState(
        count, treedef.unflatten(arrays), treedef.unflatten(scales)
    )


def rescale(
    arrays: list[Any], old: list[Any], plan: dict[int, Coded]
) -> tuple[list[Any], list[Any]]:
    """The old leaves, and the scales of the new arrays; None for exact ones.

    Codes are hidden, so that the second call of the step is compiled as well; each
    array by itself, so that it is finished while its gradient is in the cache.

    Raises:
      ValueError: if a new array has another shape, naming the leaf and both shapes.
    """
    hidden, scales = list(old), [None] * len(old)
    for i, leaf in plan.items():
        if arrays[i].shape != old[i].shape:
            raise ValueError(
                'inner has changed the shape of its state '
                f'{jax.tree_util.keystr(leaf.path)} from {old[i].shape} to '
                f'{arrays[i].shape}: call init with the parameters that these '
                'gradients belong to'
            )
        pair = old[i], codes.block_scales(arrays[i], *leaf.code)
        hidden[i], scales[i] = hidden_from_optimization(pair)
    return hidden, scales


def leaves_of(inner_state: Any, treedef: Any) -> list[Any]:
    """The leaves of an inner transformation's new state, which must have this tree.

    Raises:
      ValueError: if it has another one, naming the first place where they differ.
    """
    try:
        leaves: list[Any] = treedef.flatten_up_to(inner_state)
    except ValueError as error:
        before = treedef.unflatten(range(treedef.num_leaves))
        where, old, new = first_difference(before, inner_state)
        raise ValueError(
            'inner has another tree after its update than init made: '
            f'{new} instead of {old} at {where}. Put what changes its tree, as '
            'optax.monitor does, outside: '
            'optax.chain(optax.monitor(...), quantize_state(...))'
        ) from error
    return leaves


def widen_gradients(grads: optax.Updates, inner_state: optax.OptState) -> optax.Updates:
    """`grads` in float32 at least, as the decoded state is.

    Those whose state is all in 8-bit floats, which no arithmetic has with wider
    arrays, stay as they are.
    """

    def widen(grad: jax.Array, stored: list[jax.Array]) -> Any:
        narrow = stored and all(array.dtype.itemsize == 1 for array in stored)
        return grad if narrow else widened(grad)

    return jax.tree.map(widen, grads, arrays_beside(inner_state, grads))
