"""Refusals of parameters by `init`, each naming the first wrong leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_can_hold(name: str, dtype: np.dtype[Any] | None, params: Any) -> None:
    """Refuses a real storage dtype for complex parameters.

    Raises:
      TypeError: naming the argument `name` and the first complex leaf.
    """
    if dtype is None or dtype.kind == 'c':
        return
    for path, param in jax.tree.leaves_with_path(params):
        if jnp.iscomplexobj(param):
            raise TypeError(
                f'{name}={dtype.name} cannot hold the complex parameter '
                f'{jax.tree_util.keystr(path)} ({jnp.result_type(param).name}): '
                'use None or a complex dtype'
            )


def check_inexact(params: Any) -> None:
    """Refuses parameters that have no gradients.

    Raises:
      TypeError: naming the first leaf that is neither floating nor complex.
    """
    for path, param in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(param)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f'the parameter {jax.tree_util.keystr(path)} is {dtype.name}, and must '
                'be floating or complex: leave it out with optax.masked'
            )


def check_one_set(params: Any) -> None:
    """Refuses, with a TypeError, the two sets of parameters that Lookahead moves."""
    if isinstance(params, optax.LookaheadParams):
        raise TypeError(
            'params must be shaped like gradients, got optax.LookaheadParams: put '
            'optax.lookahead around this transformation, not inside'
        )


def check_real(name: str, params: Any) -> None:
    """Refuses complex parameters, whose gradients have no sign.

    Raises:
      TypeError: naming the transformation `name` and the first complex leaf.
    """
    for path, param in jax.tree.leaves_with_path(params):
        if jnp.iscomplexobj(param):
            raise TypeError(
                f'{name} needs the sign of gradients: the parameter '
                f'{jax.tree_util.keystr(path)} must be real, got complex '
                f'({jnp.result_type(param).name})'
            )
