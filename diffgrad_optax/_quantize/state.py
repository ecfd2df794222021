"""The state of `quantize_state`, and its float32 form."""

from typing import Any, NamedTuple

import jax
import optax

from diffgrad_optax._fit import check_scales
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
    """The scales by their paths, which are those of the codes."""
    check_scales(state.scales, state.inner_state)
    # Not by their order: NNX puts what is an array into a node, and leaves None as it
    # is.
    return dict(jax.tree.leaves_with_path(state.scales))


def decode_state(state: QuantizedState) -> optax.OptState:
    """The inner state, with float32 arrays for codes."""
    scale_at = scales_at(state)

    def decode_leaf(path: Any, leaf: Any) -> Any:
        scale = scale_at.get(path)
        return leaf if scale is None else decode(leaf, scale)

    return jax.tree.map_with_path(decode_leaf, state.inner_state)
