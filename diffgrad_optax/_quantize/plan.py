"""The plan: which arrays of the inner state have codes, and of which kind."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffgrad_optax._paths import split_paths
from diffgrad_optax._sharding import device_shape

# Fields of states with no negative elements: the default of `nonnegative`. In optax,
# unless said otherwise:
NONNEGATIVE = (
    'nu',  # second moments of Adam and most others; our AdaDiff's too
    'nu_max',  # the largest of them so far: AMSGrad; our AdaDiff's too
    'n',  # second moments of Adan and of the simplified AdEMAMix
    'exp_avg_sq',  # those of Prodigy, D-Adapt AdamW and MoMo Adam
    'sum_of_squares',  # AdaGrad's sum of squared gradients
    'grad_sum_sq',  # MADGRAD's
    *('e_g', 'e_x'),  # mean squares of Adadelta's gradients and of its updates
    'step_sizes',  # Rprop's learning rate of each element
    'gains',  # our scale_by_gains' factor of each element
)
# Fields of states that hold copies of parameters, or arrays that are subtracted from
# others: the default of `exact`. All in optax:
EXACT = (
    'z',  # schedule_free: the parameters that the inner optimizer moves
    'x0',  # initial parameters: Mechanic, MADGRAD
    'params0',  # Prodigy
    'init_params',  # DoG and DoWG
    'init_particles',  # COCOB
    'params',  # the previous parameters: L-BFGS; the current ones: zoom line search
    'updates',  # the previous gradient: L-BFGS; the direction: zoom line search
    'grad',  # the gradient that a line search hands on
    'cache',  # SAM: the parameters before its adversarial steps
)


class Code(NamedTuple):
    """How an array is stored in 8 bits."""

    block: int  # how many neighbors along the last axis share a scale
    dtype: Any  # int8 for signed elements, uint8 for non-negative ones


class Leaf(NamedTuple):
    """A leaf of the inner state."""

    path: Any
    names: set[Any]  # of the fields and keys on its path that are not the parameters'
    parameter: Any  # which one it belongs to, in their order
    field: Any  # which moment it is of, among those with codes; None if exact
    code: Code | None  # None if exact


class Rules(NamedTuple):
    """The arguments of `quantize_state` by which `init` chooses codes."""

    block_size: int
    min_size: int
    nonnegative: tuple[str, ...]
    exact: tuple[str, ...]

    def choose(self, leaf: Any, path: Any, names: set[Any], param: Any) -> Code | None:
        """The code of one leaf, `param` its parameter; None if it stays exact.

        Raises:
          ValueError: if a block would lie on two devices.
        """
        block = block_length(leaf, param, self.block_size, self.min_size)
        if block is None or not names.isdisjoint(self.exact):
            return None
        check_devices(path, param, block, self.block_size)
        signed = names.isdisjoint(self.nonnegative)
        return Code(block, jnp.int8 if signed else jnp.uint8)


def make_plan(
    inner_state: Any, params: Any, choose: Callable[..., Code | None]
) -> list[Leaf]:
    """What is to know of each leaf of `inner_state`.

    Args:
      inner_state: a state of the inner transformation, its arrays coded or not.
      params: the parameters, or gradients like them.
      choose: gives the code of a leaf, from the leaf, its path, its names and its
        parameter.
    """
    params_at = dict(jax.tree.leaves_with_path(params))
    number_of = {path: number for number, path in enumerate(params_at)}
    number_of_field: dict[Any, int] = {}
    plan = []
    leaves = jax.tree.leaves(inner_state)
    paths = split_paths(inner_state, params)
    for leaf, (field_path, param_path) in zip(leaves, paths, strict=True):
        path = field_path + (param_path or ())
        names = names_on(field_path)
        code = choose(leaf, path, names, params_at.get(param_path))
        field = None
        if code is not None:
            field = number_of_field.setdefault(field_path, len(number_of_field))
        plan.append(Leaf(path, names, number_of.get(param_path), field, code))
    return plan


def block_length(leaf: Any, param: Any, block_size: int, min_size: int) -> int | None:
    """How many neighbors of `leaf` share a scale; None if it stays exact."""
    shape: Any = getattr(leaf, 'shape', None)
    dtype: Any = getattr(leaf, 'dtype', None)
    if (
        not shape
        or shape != getattr(param, 'shape', None)
        or not jnp.issubdtype(dtype, jnp.floating)
        or jnp.dtype(dtype).itemsize not in (2, 4)
        or not isinstance(shape[-1], int)  # symbolic, in jax.export
        or math.prod(shape) < max(min_size, 1)
    ):
        return None
    block = math.gcd(shape[-1], block_size)
    return block if block >= min(16, block_size) else None


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


def field_names(inner_state: Any, plan: list[Leaf]) -> set[Any]:
    """The names of all fields of a state, of those without leaves too."""

    def is_empty(node: Any) -> bool:
        return not jax.tree.leaves(node)

    nodes = jax.tree.leaves_with_path(inner_state, is_leaf=is_empty)
    without_leaves = [names_on(path) for path, node in nodes if is_empty(node)]
    return set().union(*(leaf.names for leaf in plan), *without_leaves)


def names_on(path: Any) -> set[Any]:
    """The names of fields and the keys of dicts in `path`."""
    return {getattr(key, 'name', getattr(key, 'key', None)) for key in path}
