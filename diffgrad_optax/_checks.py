"""Refusals of wrong arguments: each names the argument, its value, what is allowed.

Only plain Python and NumPy numbers are looked at. An array may be traced, and
reading a concrete one would wait for its device, so arrays pass unread.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_number(
    name: str, value: Any, low: float = 0.0, high: float = math.inf
) -> None:
    """Refuses a plain number outside [low, high), NaN included.

    Raises:
      TypeError: if `value` is neither a real number nor an array.
      ValueError: if `value` is a plain number outside the range.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        return
    allowed = f'in [{low:g}, {high:g})' if high < math.inf else f'finite and >= {low:g}'
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f'{name} must be a number {allowed}, got {value!r}')
    number: Any = value  # typeshed gives numbers.Real no comparison with float
    if not low <= number < high:
        raise ValueError(f'{name} must be {allowed}, got {value!r}')


def check_learning_rate(value: Any) -> None:
    """Refuses a learning rate that is no schedule and no non-negative number."""
    if not callable(value):
        check_number('learning_rate', value)


def storage_dtype(name: str, value: Any) -> np.dtype[Any] | None:
    """The dtype that JAX will store for the argument `name`, None for None.

    Raises:
      TypeError: if `value` is no dtype, or an integer or boolean one.
    """
    if value is None:
        return None
    allowed = (
        'None or a floating dtype (inside optax.inject_hyperparams by its name, '
        "'bfloat16', because a scalar type is callable and would be taken for a "
        'schedule)'
    )
    try:
        # An array has a dtype, but whoever passes one did not mean to choose it.
        if isinstance(value, (jax.Array, np.ndarray)):
            raise TypeError
        dtype = jax.dtypes.canonicalize_dtype(value)
    except TypeError:
        raise TypeError(f'{name} must be {allowed}, got {value!r}') from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f'{name} must be {allowed}, got {dtype.name}')
    return dtype


def check_can_hold(name: str, dtype: np.dtype[Any] | None, params: Any) -> None:
    """Refuses a real storage dtype for complex parameters.

    Raises:
      TypeError: naming the argument `name` and the first complex leaf.
    """

    def check(path: Any, param: Any) -> None:
        if (
            dtype is not None
            and jnp.iscomplexobj(param)
            and not jnp.issubdtype(dtype, jnp.complexfloating)
        ):
            raise TypeError(
                f'{name}={dtype.name} cannot hold the complex parameter '
                f'{jax.tree_util.keystr(path)} ({param.dtype.name}): '
                'use None or a complex dtype'
            )

    jax.tree_util.tree_map_with_path(check, params)
