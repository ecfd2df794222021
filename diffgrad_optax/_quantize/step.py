"""One step of the inner transformation, from codes to codes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._dtypes import widened
from diffgrad_optax._fit import check_shape, leaves_of
from diffgrad_optax._paths import arrays_beside
from diffgrad_optax._quantize import codes, dither
from diffgrad_optax._xla import hidden_from_optimization
from diffgrad_optax._quantize.plan import Leaf
from diffgrad_optax._quantize.state import QuantizedState, decode_state

# A step of the inner transformation: its state, in float32, to updates and a new state.
Step = Callable[[optax.OptState], tuple[optax.Updates, optax.OptState]]


def first_state(inner_state: optax.OptState, plan: list[Leaf]) -> QuantizedState:
    """The first state: the nearest codes of the inner one's arrays."""
    arrays: list[Any]
    treedef: Any
    arrays, treedef = jax.tree.flatten(inner_state)
    scales: list[Any] = [None] * len(plan)
    for i, leaf in enumerate(plan):
        if leaf.code is not None:
            x = arrays[i]
            scales[i] = codes.block_scales(x, *leaf.code)
            half = jnp.full_like(x, 0.5, dtype=jnp.float32)
            arrays[i] = codes.encode(x, scales[i], half, leaf.code.dtype)
    count = jnp.zeros((), jnp.int32)
    return QuantizedState(count, treedef.unflatten(arrays), treedef.unflatten(scales))


def next_state(
    step: Step, state: QuantizedState, plan: list[Leaf]
) -> tuple[optax.Updates, QuantizedState]:
    """Updates and the next state.

    `step` is called twice: for the new scales alone, then for everything else. A
    block's scale must be known before its first code. Called once, the new state would
    lie in memory as float32 between the two, which moves more bytes than a step
    without codes. XLA drops from the first call what no scale needs.
    """
    old: list[Any]
    treedef: Any
    old, treedef = jax.tree.flatten(state.inner_state)
    _, inner_state = step(decode_state(state))
    old, scales = rescale(leaves_of(inner_state, treedef), old, plan)

    hidden_state = state._replace(inner_state=treedef.unflatten(old))
    updates, inner_state = step(decode_state(hidden_state))
    count = optax.safe_increment(state.count)
    new = round_arrays(leaves_of(inner_state, treedef), old, scales, plan, count)
    return updates, QuantizedState(
        count, treedef.unflatten(new), treedef.unflatten(scales)
    )


def rescale(
    arrays: list[Any], old: list[Any], plan: list[Leaf]
) -> tuple[list[Any], list[Any]]:
    """The old codes, hidden, and the scales of the new arrays; None for exact ones.

    Hidden, so that XLA does not see that both calls of the step compute the same; each
    array by itself, so that XLA finishes it while its gradient is in the cache.
    """
    hidden: list[Any] = list(old)
    scales: list[Any] = [None] * len(plan)
    for i, leaf in enumerate(plan):
        if leaf.code is not None:
            check_shape(leaf.path, arrays[i], old[i])
            pair = old[i], codes.block_scales(arrays[i], *leaf.code)
            hidden[i], scales[i] = hidden_from_optimization(pair)
    return hidden, scales


def round_arrays(
    arrays: list[Any],
    old: list[Any],
    scales: list[Any],
    plan: list[Leaf],
    count: jax.Array,
) -> list[Any]:
    """The new arrays as codes; exact ones as they are."""
    new = list(arrays)
    coded = {leaf.parameter for leaf in plan if leaf.code is not None}
    seeds = dither.parameter_seeds(coded, count)
    hashes: dict[Any, jax.Array] = {}
    for i, leaf in enumerate(plan):
        if leaf.code is not None:
            number = leaf.parameter
            if number not in hashes:
                # Like the old codes: the new array may be sharded otherwise.
                hashes[number] = dither.hash_places(old[i], seeds[number])
            r = dither.thresholds(hashes[number], leaf.field, count)
            new[i] = codes.encode(arrays[i], scales[i], r, leaf.code.dtype)
    return new


def widen_gradients(grads: optax.Updates, inner_state: optax.OptState) -> optax.Updates:
    """`grads` in float32 at least, as the decoded state is.

    Those whose state is all in 8-bit floats, which no arithmetic has with wider
    arrays, stay as they are.
    """

    def widen(grad: jax.Array, stored: list[jax.Array]) -> Any:
        narrow = stored and all(array.dtype.itemsize == 1 for array in stored)
        return grad if narrow else widened(grad)

    return jax.tree.map(widen, grads, arrays_beside(inner_state, grads))
