"""The kinds of arguments: each refuses, by name, a value that is not of it.

Only plain Python and NumPy numbers are looked at. An array may be traced, and
reading a concrete one would wait for its device, so arrays pass unread.
"""

import math
import numbers
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclass(frozen=True)
class Number:
    """A plain number in an interval, or an array of one number, which is not read."""

    interval: str  #: '[0, 1)' or '[0, 1]'; '[0, inf)' for what is finite and >= 0.
    or_schedule: bool = False  #: whether it may be a function as well.

    def __call__(self, name: str, value: Any) -> None:
        """Refuses any other value, NaN included.

        Below an open end is only what stays below it in the widest numbers that JAX
        has, float32 by default.

        Raises:
          TypeError: if `value` is neither a real number nor an array of one.
          ValueError: if `value` is a plain number outside the interval.
        """
        if self.or_schedule and callable(value):
            return
        low, high = (float(end) for end in self.interval[1:-1].split(','))
        closed = self.interval.endswith(']')
        if high < math.inf:
            allowed = f'in {self.interval}'
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
        refusal = f'{name} must be {allowed}, got {value!r}'
        if not (low <= number < high or (closed and number == high)):
            raise ValueError(refusal)
        widest = jax.dtypes.canonicalize_dtype(np.float64)
        if high < math.inf and not closed and widest.type(number) == high:
            raise ValueError(
                f'{refusal}, which is {high:g} in {widest} '
                '(float64 needs jax_enable_x64)'
            )


@dataclass(frozen=True)
class Integer:
    """A plain integer of a range."""

    low: int  #: the smallest allowed.
    below: float = math.inf  #: larger than all that are allowed.

    def __call__(self, name: str, value: Any) -> None:
        """Refuses any other value.

        Raises:
          TypeError: if `value` is no integer.
          ValueError: if it is too small or too large.
        """
        integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not integer or int(value) < self.low:
            error = ValueError if integer else TypeError
            raise error(f'{name} must be an integer >= {self.low}, got {value!r}')
        if int(value) >= self.below:
            raise ValueError(f'{name} must be an integer < {self.below}, got {value!r}')


@dataclass(frozen=True)
class Dtype:
    """None, or a dtype in which gradients and moments can be stored."""

    real: bool = False  #: whether what is stored is real for complex parameters too.

    def __call__(self, name: str, value: Any) -> None:
        """Refuses any other value.

        Raises:
          TypeError: if `value` is no dtype, an integer or boolean one, a floating one
            without zero and negative numbers or of fewer than 8 bits, or a complex one
            of what is real.
        """
        if value is None:
            return
        allowed = (
            'None or a floating dtype with a sign, a zero and at least 8 bits (inside '
            "optax.inject_hyperparams by its name, 'bfloat16', because a scalar type "
            'is callable and would be taken for a schedule)'
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
        if self.real and dtype.kind == 'c':
            raise TypeError(f'{name} must be real, got {dtype.name}')


def _stores_gradients(dtype: np.dtype[Any]) -> bool:
    """Whether the inexact `dtype` has a sign, a zero and at least 8 bits."""
    info: Any = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    return bool(info.bits >= 8 and info.min < 0)


def flag(name: str, value: Any) -> None:
    """Refuses, with a TypeError, what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f'{name} must be True or False, got {value!r}')


def names(name: str, value: Any) -> None:
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


def mask(name: str, value: Any) -> None:
    """Refuses a mask that is no function and no tree of booleans.

    Raises:
      TypeError: naming the first leaf that is something else.
    """
    if callable(value):
        return
    for leaf in jax.tree.leaves(value):
        if not jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), np.bool_):
            raise TypeError(
                f'{name} must be None, a function or a tree of booleans, '
                f'got {leaf!r} in it'
            )


def key(name: str, value: Any) -> None:
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
        raise TypeError(
            f'{name} must be {allowed}, got {value.dtype}{list(value.shape)}'
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f'{name} must be {allowed}, got {value!r}')
    if not 0 <= int(value) < 2**32:
        raise ValueError(f'{name} must be {allowed}, got {value!r}')


def inner(name: str, value: Any) -> None:
    """Refuses, with a TypeError, what is no transformation to put something around."""
    if isinstance(value, optax.MultiSteps):
        raise TypeError(
            f'{name} is an optax.MultiSteps: give what gradient_transformation() of it '
            'returns'
        )
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f'{name} must be an optax transformation such as optax.scale_by_adam(), '
            f'got {value!r}'
        )
