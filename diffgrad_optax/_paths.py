"""Where a state has trees like the parameters, and what is in them."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import optax


def split_paths(state: Any, params: Any) -> list[tuple[Any, Any]]:
    """The path of each leaf of `state`, in two: to a tree like `params`, and in there.

    The second part is the path of the leaf's parameter: `.mu.w` is `.mu` and `.w`. It
    is None for a leaf that is in no such tree, such as a count.

    Names alone do not say where to cut: `.nu.w` is the moment `.nu` of a parameter
    `.w`, or, where the state is itself a tree like `params`, of a parameter `.nu.w`. So
    a path is cut above the most parameters, those counted that are left out; among
    equal places where the fewest are left out; among those at the deepest.

    (`optax.tree.map_params` finds nothing in a state that `init` did not compute from
    its argument, and fails for sm3, lbfgs and flatten.)
    """
    params_at = {path for path, _ in jax.tree.leaves_with_path(params)}
    found, left_out = _parameters_below(state, params_at)

    def split(path: Any) -> tuple[Any, Any]:
        def likeness(cut: int) -> tuple[int, int, int]:
            above = path[:cut]
            return found[above] + left_out[above], found[above], cut

        cuts = [cut for cut in range(len(path) + 1) if path[cut:] in params_at]
        if not cuts:
            return path, None
        cut = max(cuts, key=likeness)
        return path[:cut], path[cut:]

    return [split(path) for path, _ in jax.tree.leaves_with_path(state)]


def _parameters_below(
    state: Any, params_at: set[Any]
) -> tuple[Counter[Any], Counter[Any]]:
    """How many parameters each path in `state` has below it: found, and left out.

    Left out are those with None or `optax.MaskedNode()` instead of themselves or of a
    node that they are in.
    """
    inside = Counter(path[:end] for path in params_at for end in range(len(path) + 1))
    found: Counter[Any] = Counter()
    left_out: Counter[Any] = Counter()
    for path, node in jax.tree.leaves_with_path(state, _is_mark):
        for cut in range(len(path) + 1):
            above, below = path[:cut], path[cut:]
            if _is_mark(node):
                left_out[above] += inside[below]
            elif below in params_at:
                found[above] += 1
    return found, left_out


def arrays_beside(state: Any, params: Any) -> Any:
    """For each leaf of `params` a list: the arrays of `state` that belong to it.

    That is its floating or complex arrays of the leaf's own shape.
    """
    params_at = dict(jax.tree.leaves_with_path(params))
    beside: dict[Any, list[jax.Array]] = {path: [] for path in params_at}
    paths = [path for _, path in split_paths(state, params)]
    for leaf, path in zip(jax.tree.leaves(state), paths, strict=True):
        if (
            path is not None
            and isinstance(leaf, jax.Array)
            and leaf.shape == params_at[path].shape
            and jnp.issubdtype(leaf.dtype, jnp.inexact)
        ):
            beside[path].append(leaf)
    return jax.tree.unflatten(jax.tree.structure(params), beside.values())


def _is_mark(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)
