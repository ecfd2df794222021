"""The state of `quantize_state`, and its float32 form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._quantize.codes import decode


class QuantizedState(NamedTuple):
    """State of :func:`quantize_state`; checkpoints hold these field names."""

    #: t, int32, scalar.
    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState  #: the inner one's, codes in int8 or uint8 for arrays.
    scales: optax.OptState  #: its twin, in float32; None if exact.


def dequantize_state(opt_state: optax.OptState) -> optax.OptState:
    """The state with float32 arrays for codes, as the transformations inside have it.

    To go on without 8 bits, or to look at a moment: each :class:`QuantizedState` in
    `opt_state` is replaced by its decoded `inner_state`; everything else stays.

    Args:
      opt_state: any optimizer state, such as a chain's.

    Returns:
      The state of the optimizer without :func:`quantize_state`. What had codes is
      float32, also where the inner transformation would store bfloat16.

    Raises:
      ValueError: if `scales` do not fit the `inner_state` that they stand beside.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import dequantize_state, quantize_state
    >>> optimizer = quantize_state(optax.trace(0.9), min_size=0)
    >>> grads = jnp.linspace(0.0, 1.0, 16, dtype=jnp.float32)
    >>> _, state = optimizer.update(grads, optimizer.init(grads))
    >>> print(state.inner_state.trace[-4:], dequantize_state(state).trace[-4:])
    [114 118 123 127] [0.8058 0.8633 0.938  1.    ]
    """
    return jax.tree.map(
        lambda node: decode_state(node) if isinstance(node, QuantizedState) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, QuantizedState),
    )


def scales_at(state: QuantizedState) -> dict[Any, jax.Array]:
    """The scales by their paths, which are those of the codes.

    Raises:
      ValueError: if they are not the scales of this inner state.
    """
    # Not by their order: NNX puts arrays into nodes, and leaves None as it is.
    all_scales, all_leaves = (
        dict(jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: leaf is None))
        for tree in (state.scales, state.inner_state)
    )
    scale_at = {path: scale for path, scale in all_scales.items() if scale is not None}
    keystr = jax.tree_util.keystr
    wrong = [f'it has no {keystr(path)}' for path in scale_at if path not in all_leaves]
    if len(all_scales) != len(all_leaves):
        wrong += [f'they have {len(all_scales)} leaves, and it has {len(all_leaves)}']
    wrong += [
        f'they must be None at {keystr(path)}, where inner_state has no codes'
        for path in scale_at
        if getattr(all_leaves.get(path), 'dtype', None) not in (jnp.int8, jnp.uint8)
    ]
    if wrong:
        raise ValueError(
            f'scales do not fit the inner_state: {wrong[0]}: take both from one '
            'QuantizedState (optax.tree.set(state, lambda path, x: x is not None, '
            '...) leaves scales alone)'
        )
    return scale_at


def decode_state(state: QuantizedState) -> optax.OptState:
    """The inner state, with float32 arrays for codes."""
    scale_at = scales_at(state)
    return jax.tree.map_with_path(
        lambda path, leaf: decode(leaf, scale_at[path]) if path in scale_at else leaf,
        state.inner_state,
    )
