"""Where a state has trees like the parameters."""

import functools
from typing import Any

import jax
import optax


def split_paths(state: Any, params: Any) -> list[tuple[Any, Any]]:
    """The path of each leaf of `state`, in two: to a tree like `params`, and in there.

    The second part is the path of the leaf's parameter too. It is None where a leaf
    is in no such tree.

    A parameter may be called like a field: `.nu.w` is a moment of `.w`, or any array
    of the parameter `.nu.w`. So a path is cut where the most of `params` is found.
    """
    inside = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    ends = {path for path, _ in jax.tree_util.tree_leaves_with_path(state, _left_out)}

    @functools.cache
    def found(prefix: Any) -> int:
        """How many parameters have a leaf behind `prefix`, or were left out there."""
        return sum(
            any(prefix + path[:end] in ends for end in range(len(path) + 1))
            for path in inside
        )

    def split(path: Any) -> tuple[Any, Any]:
        cuts = [cut for cut in range(len(path) + 1) if path[cut:] in inside]
        if not cuts:
            return path, None
        # Mostly it is the first, and no other has to be looked behind.
        whole = (cut for cut in cuts if found(path[:cut]) == len(inside))
        cut = next(whole, None)
        if cut is None:
            cut = max(cuts, key=lambda cut: found(path[:cut]))
        return path[:cut], path[cut:]

    return [split(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _left_out(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)
