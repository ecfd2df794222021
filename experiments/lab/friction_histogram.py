"""How friction is distributed while a network trains, with nothing else changed.

What is looked at is ξ − ½, how far friction is from halving the step. Its bins are
the powers of two, down to the smallest that a float32 next to ½ can show: bin 0 holds
what is below 2⁻²⁴, where ξ is ½ exactly (or less, where a friction goes below ½), and
bin k what is from 2^(k − 25) to 2^(k − 24).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax import FrictionState, friction_coefficients

BINS = 25


class ObservedState(NamedTuple):
    """What was seen since the last `read`."""

    steps: jax.Array  # int32, scalar
    excess: jax.Array  # sum over the steps of each array's mean of ξ − ½: float32
    bins: jax.Array  # sum of the part of its elements in each bin: arrays × BINS
    inner_state: FrictionState


def observed(
    inner: optax.GradientTransformation, friction: str
) -> optax.GradientTransformationExtraArgs:
    """`inner`, which is `with_friction` of something, and how its ξ is distributed.

    Args:
      inner: what takes the steps.
      friction: the coefficient that it was made with.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> ObservedState:
        arrays = len(jax.tree.leaves(params))
        return ObservedState(
            jnp.zeros((), jnp.int32),
            jnp.zeros(arrays, jnp.float32),
            jnp.zeros((arrays, BINS), jnp.float32),
            inner.init(params),
        )

    def update_fn(
        updates: Any, state: ObservedState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ObservedState]:
        coefficients = friction_coefficients(updates, state.inner_state, friction)
        excess, bins = distribution(coefficients)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        return updates, ObservedState(
            state.steps + 1, state.excess + excess, state.bins + bins, inner_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def distribution(coefficients: Any) -> tuple[jax.Array, jax.Array]:
    """Of each array the mean of ξ − ½, and the part of its elements in each bin."""
    leaves = jax.tree.leaves(coefficients)
    sizes = np.array([leaf.size for leaf in leaves])
    # All arrays in one: a histogram for each would be compiled for each.
    excess = jnp.concatenate([leaf.ravel() for leaf in leaves]) - 0.5
    # Broadcasts: XLA would work `jnp.repeat` out itself, and take long over it.
    owner = jnp.concatenate([jnp.full(size, i) for i, size in enumerate(sizes)])
    place = jnp.where(excess > 0.0, jnp.frexp(excess)[1] + BINS - 1, 0)
    place = jnp.clip(place, 0, BINS - 1)
    counts = jnp.zeros((len(leaves), BINS), jnp.float32).at[owner, place].add(1.0)
    sums = jnp.zeros(len(leaves), jnp.float32).at[owner].add(excess.astype(jnp.float32))
    return sums / sizes.astype(np.float32), counts / sizes.astype(np.float32)[:, None]


def read(opt_state: Any) -> tuple[Any, dict[str, Any]]:
    """What was observed since the last time, and the state that begins anew.

    Returns:
      The state, and under `friction` the names and sizes of the arrays and of each the
      mean of ξ − ½ and the parts in the bins; nothing if the state observes nothing.
    """
    seen = {}

    def begin_anew(node: Any) -> Any:
        if not isinstance(node, ObservedState):
            return node
        steps = int(node.steps)
        leaves = jax.tree_util.tree_leaves_with_path(node.inner_state.prev_grad)
        seen['friction'] = {
            'arrays': [
                jax.tree_util.keystr(path, simple=True, separator='/')
                for path, _ in leaves
            ],
            'sizes': [leaf.size for _, leaf in leaves],
            'excess': rounded(np.asarray(node.excess) / steps),
            'bins': [rounded(row) for row in np.asarray(node.bins) / steps],
        }
        return jax.tree.map(jnp.zeros_like, node)._replace(inner_state=node.inner_state)

    state = jax.tree.map(
        begin_anew, opt_state, is_leaf=lambda node: isinstance(node, ObservedState)
    )
    return state, seen


def rounded(values: Iterable[float]) -> list[float]:
    """As JSON has them, to four digits."""
    return [float(f'{value:.4g}') for value in values]
