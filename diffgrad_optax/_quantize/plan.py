"""The plan: which arrays of the inner state have codes, and of which kind."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffgrad_optax._paths import split_paths
from diffgrad_optax._quantize.fields import names_on
from diffgrad_optax._quantize.state import QuantizedState, scales_at
from diffgrad_optax._sharding import device_shape


class Code(NamedTuple):
    """How an array is stored in 8 bits."""

    block: int  # how many neighbors along the last axis share a scale
    dtype: Any  # int8 for signed elements, uint8 for non-negative ones


class Coded(NamedTuple):
    """A leaf of the inner state that has codes."""

    path: Any
    parameter: Any  # number of the parameter that it belongs to
    field: int  # number of the field that it is in, among those with codes
    code: Code


def choose_codes(
    inner_state: Any,
    params: Any,
    block_size: int,
    min_size: int,
    nonnegative: Sequence[str],
    exact: Sequence[str],
) -> dict[int, Code]:
    """The codes of a new inner state, by the numbers of its leaves; others are exact.

    Raises:
      ValueError: if a block would lie on two devices.
    """
    param_at = dict(jax.tree.leaves_with_path(params))
    leaves = jax.tree.leaves(inner_state)
    codes = {}
    for i, (field_path, param_path) in enumerate(split_paths(inner_state, params)):
        names, param = names_on(field_path), param_at.get(param_path)
        block = block_length(leaves[i], param, block_size, min_size)
        if block and names.isdisjoint(exact):
            check_devices(field_path + param_path, param, block, block_size)
            signed = names.isdisjoint(nonnegative)
            codes[i] = Code(block, jnp.int8 if signed else jnp.uint8)
    return codes


def make_plan(state: QuantizedState, grads: Any) -> dict[int, Coded]:
    """The leaves of the inner state that have codes, by the numbers of its leaves."""
    scale_at = scales_at(state)
    leaves = jax.tree.leaves_with_path(state.inner_state)
    param_paths = [path for path, _ in jax.tree.leaves_with_path(grads)]
    number_of = {path: number for number, path in enumerate(param_paths)}
    number_of_field: dict[Any, int] = {}
    plan = {}
    for i, (field_path, param_path) in enumerate(split_paths(state.inner_state, grads)):
        path, array = leaves[i]
        if path in scale_at:
            code = Code(array.shape[-1] // scale_at[path].shape[-1], array.dtype)
            field = number_of_field.setdefault(field_path, len(number_of_field))
            plan[i] = Coded(path, number_of.get(param_path), field, code)
    return plan


def block_length(leaf: Any, param: Any, block_size: int, min_size: int) -> int:
    """How many neighbors of `leaf` share a scale; 0 if it stays exact."""
    shape: Any = getattr(leaf, 'shape', None)
    if (
        not shape
        or shape != getattr(param, 'shape', None)
        or not jnp.issubdtype(leaf.dtype, jnp.floating)
        or leaf.dtype.itemsize not in (2, 4)
        or not isinstance(shape[-1], int)  # symbolic, in jax.export
        or math.prod(shape) < max(min_size, 1)
    ):
        return 0
    block = math.gcd(shape[-1], block_size)
    return block if block >= min(16, block_size) else 0


def check_devices(path: Any, param: Any, block: int, block_size: int) -> None:
    """Refuses blocks of the state at `path` that would lie on two devices."""
    size = device_shape(param)[-1]
    if size % block:
        raise ValueError(
            f'block_size={block_size} makes blocks of {block} numbers of '
            f'{jax.tree_util.keystr(path)}, but each device holds {size} along the '
            f'last of its axes {list(param.shape)}: give a block_size that divides '
            f'{size}, such as {math.gcd(size, block)}'
        )
