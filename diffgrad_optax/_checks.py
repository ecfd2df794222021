"""Refusals of wrong arguments: each names the argument, its value, what is allowed.

Only plain Python and NumPy numbers are looked at. An array may be traced, and
reading a concrete one would wait for its device, so arrays pass unread.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    closed: bool = False,
) -> None:
    """Refuses a plain number outside [low, high), NaN included.

    If `closed`, `high` itself is allowed. If not, neither is what rounds to it in the
    widest numbers that JAX has, float32 by default.

    Raises:
      TypeError: if `value` is neither a real number nor an array of one.
      ValueError: if `value` is a plain number outside the range.
    """
    if high < math.inf:
        allowed = f'in [{low:g}, {high:g}{"]" if closed else ")"}'
    else:
        allowed = f'{"" if closed else "finite and "}>= {low:g}'
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape == () and (
            jnp.issubdtype(value.dtype, jnp.integer)
            or jnp.issubdtype(value.dtype, jnp.floating)
        ):
            return
        value = f'{value.dtype}{list(value.shape)}'
        raise TypeError(f'{name} must be a number {allowed}, got {value}')
    real = isinstance(value, (int, float, np.integer, np.floating))
    if isinstance(value, bool) or not real:
        raise TypeError(f'{name} must be a number {allowed}, got {value!r}')
    try:
        number = float(value)
    except OverflowError:  # an integer that no float holds
        number = math.nan
    if not (low <= number < high or (closed and number == high)):
        raise ValueError(f'{name} must be {allowed}, got {value!r}')
    widest = jax.dtypes.canonicalize_dtype(np.float64)
    if high < math.inf and not closed and widest.type(number) == high:
        raise ValueError(
            f'{name} must be {allowed}, got {value!r}, which is {high:g} in {widest} '
            '(float64 needs jax_enable_x64)'
        )


def check_number_or_schedule(name: str, value: Any) -> None:
    """Refuses what is neither a schedule nor a finite number >= 0."""
    if not callable(value):
        check_number(name, value)


def check_integer(name: str, value: Any, low: int, high: float = math.inf) -> None:
    """Refuses what is no integer, one below `low`, or `high` and more.

    Raises:
      TypeError: if `value` is no integer.
      ValueError: if it is too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f'{name} must be an integer >= {low}, got {value!r}')
    if int(value) < low:
        raise ValueError(f'{name} must be an integer >= {low}, got {value!r}')
    if int(value) >= high:
        raise ValueError(f'{name} must be an integer < {high}, got {value!r}')


def check_inner(inner: Any) -> None:
    """Refuses, with a TypeError, what is no transformation to put something around."""
    if isinstance(inner, optax.MultiSteps):
        raise TypeError(
            'inner is an optax.MultiSteps: give what gradient_transformation() of it '
            'returns'
        )
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            'inner must be an optax transformation such as optax.scale_by_adam(), '
            f'got {inner!r}'
        )


def check_names(name: str, value: Any) -> None:
    """Refuses what is no sequence of names.

    Raises:
      TypeError: if it is no tuple or list, or holds anything but strings.
    """
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(field, str) for field in value
    ):
        raise TypeError(
            f'{name} must be a tuple or list of field names '
            f"such as ('nu',), got {value!r}"
        )


def check_fields(name: str, given: Iterable[str], fields: Iterable[Any]) -> None:
    """Refuses, with a ValueError, names of fields that a state does not have."""
    if unknown := sorted(set(given) - set(fields)):
        known = ', '.join(sorted(field for field in fields if isinstance(field, str)))
        raise ValueError(
            f'{name} names {unknown[0]!r}, but the state of inner has only the fields '
            f'{known}'
        )


def check_flag(name: str, value: Any) -> None:
    """Refuses, with a TypeError, what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def check_mask(value: Any) -> None:
    """Refuses a mask that is no function and no tree of booleans.

    Raises:
      TypeError: naming the first leaf that is something else.
    """
    if callable(value):
        return
    for leaf in jax.tree.leaves(value):
        if not jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), np.bool_):
            raise TypeError(
                'mask must be None, a function or a tree of booleans, '
                f'got {leaf!r} in it'
            )


def check_key(value: Any) -> None:
    """Refuses a random key that `jax.random` could not make one of.

    Raises:
      TypeError: if `value` is neither an integer nor a typed key.
      ValueError: if it is a plain integer that does not fit 32 bits.
    """
    allowed = 'an integer in [0, 2**32) or a typed key such as jax.random.key(0)'
    if isinstance(value, (jax.Array, np.ndarray)):
        typed = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        if value.shape == () and (typed or jnp.issubdtype(value.dtype, jnp.integer)):
            return
        raise TypeError(f'key must be {allowed}, got {value.dtype}{list(value.shape)}')
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f'key must be {allowed}, got {value!r}')
    if not 0 <= int(value) < 2**32:
        raise ValueError(f'key must be {allowed}, got {value!r}')


def storage_dtype(name: str, value: Any, *, real: bool = False) -> np.dtype[Any] | None:
    """The dtype that JAX will store for the argument `name`, None for None.

    Args:
      name: of the argument.
      value: of the argument.
      real: whether what is stored is real where parameters are complex too.

    Raises:
      TypeError: if `value` is no dtype, an integer or boolean one, a floating one
        without zero and negative numbers or of fewer than 8 bits, or a complex one of
        what is real.
    """
    if value is None:
        return None
    allowed = (
        'None or a floating dtype with a sign, a zero and at least 8 bits (inside '
        "optax.inject_hyperparams by its name, 'bfloat16', because a scalar type is "
        'callable and would be taken for a schedule)'
    )
    try:
        # An array has a dtype, but whoever passes one did not mean to choose it.
        if isinstance(value, (jax.Array, np.ndarray)):
            raise TypeError
        dtype = jax.dtypes.canonicalize_dtype(value)
    except (TypeError, ValueError):  # the latter of the dtypes of keys
        raise TypeError(f'{name} must be {allowed}, got {value!r}') from None
    if not jnp.issubdtype(dtype, jnp.inexact) or not _stores_gradients(dtype):
        raise TypeError(f'{name} must be {allowed}, got {dtype.name}')
    if real and dtype.kind == 'c':
        raise TypeError(f'{name} must be real, got {dtype.name}')
    return dtype


def _stores_gradients(dtype: np.dtype[Any]) -> bool:
    """Whether the inexact `dtype` has a sign, a zero and at least 8 bits."""
    info: Any = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return bool(info.bits >= 8 and info.min < 0)


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
