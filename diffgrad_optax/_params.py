"""Parameters as `init` gets them: what is refused, and zeros shaped like them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._dtypes import real_dtype


def zeros(params: Any, *, real: bool = False, **storage: Any) -> Any:
    """Zeros shaped like `params`, with which an average or a gradient begins.

    Args:
      params: a tree of arrays, shape-dtype structs or placeholders.
      real: whether they are real where parameters are complex.
      **storage: at most one argument, such as ``mu_dtype=mu_dtype``: what to store
        them in. None is each parameter's own dtype. For a real parameter a complex
        dtype is the real one of its parts.

    Raises:
      TypeError: as `check_params`, or naming the argument and the first complex
        parameter that its real dtype cannot hold.
    """
    check_params(params)
    name, dtype = next(iter(storage.items()), ('', None))
    if dtype is not None:
        dtype = jax.dtypes.canonicalize_dtype(dtype)

    def zero(path: Any, param: Any) -> jax.Array:
        own = jnp.result_type(param)
        if dtype is not None and dtype.kind != 'c' == own.kind and not real:
            raise TypeError(
                f'{name}={dtype.name} cannot hold the complex parameter '
                f'{jax.tree_util.keystr(path)} ({own.name}): '
                'use None or a complex dtype'
            )
        stored = own if dtype is None else dtype
        real_part = real or own.kind != 'c'
        return jnp.zeros_like(param, dtype=real_dtype(stored) if real_part else stored)

    return jax.tree.map_with_path(zero, params)


def check_params(params: Any, *, signs_for: str | None = None) -> None:
    """Refuses parameters that have no gradients, or none with a sign.

    Raises:
      TypeError: naming the first leaf that is neither floating nor complex; if
        `signs_for` is the name of a transformation, that is not floating.
    """
    check_one_set(params)
    for path, param in jax.tree.leaves_with_path(params):
        leaf, dtype = jax.tree_util.keystr(path), jnp.result_type(param)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f'the parameter {leaf} is {dtype.name}, and must be floating or '
                'complex: leave it out with optax.masked'
            )
        if signs_for and dtype.kind == 'c':
            raise TypeError(
                f'{signs_for} needs the sign of gradients: the parameter {leaf} '
                f'must be real, got complex ({dtype.name})'
            )


def check_one_set(params: Any) -> None:
    """Refuses, with a TypeError, the two sets of parameters that Lookahead moves."""
    if isinstance(params, optax.LookaheadParams):
        raise TypeError(
            'params must be shaped like gradients, got optax.LookaheadParams: put '
            'optax.lookahead around this transformation, not inside'
        )
