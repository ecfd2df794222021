"""What each argument may be: one table for all functions of the package.

A name means the same wherever it is an argument. `friction` alone is not here:
`friction.resolve` refuses it where it looks up the coefficient.

Plain Python and NumPy numbers are compared with their range. Arrays are not: they may
be traced, and reading a concrete one would wait for its device.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Refusal = type[Exception] | None
_ARRAYS = (jax.Array, np.ndarray)


def check(**arguments: Any) -> None:
    """Refuses the first of `arguments` that is not what the table allows.

    Raises:
      TypeError: if it is of another kind; the message names it and what is allowed.
      ValueError: if it is a plain number out of its range.
    """
    for name, value in arguments.items():
        kind = _KIND_OF[name]
        if error := kind.refusal(value):
            raise error(f'{name} must be {kind.allowed}, got {kind.shown(value)}')


def _shown(value: Any) -> str:
    if isinstance(value, _ARRAYS):
        return f'{value.dtype}{list(value.shape)}'
    if isinstance(value, float) and value != (x := _rounded(value)) in (1, math.inf):
        return f'{value!r}, which is {x:g} in float32 (float64 needs jax_enable_x64)'
    return repr(value)


class _Kind(NamedTuple):
    allowed: str
    refusal: Callable[[Any], Refusal]  # the error that a value is refused with
    shown: Callable[[Any], str] = _shown


def _rounded(number: float) -> float:
    """`number` in the widest dtype that JAX has, float32 by default."""
    with np.errstate(over='ignore'):
        return float(jax.dtypes.canonicalize_dtype(np.float64).type(number))


def _array_refusal(array: Any, *kinds: Any) -> Refusal:
    """None for an array of one element, of one of these kinds of dtypes."""
    of_a_kind = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
    return None if of_a_kind and array.shape == () else TypeError


def _number(interval: str, *, or_schedule: bool = False) -> _Kind:
    """A number in '[0, 1)' or '[0, 1]'; '[0, inf)' is what is finite and >= 0.

    What is below an open end is so in the widest dtype of JAX too.
    """
    low, high = map(float, interval[1:-1].split(','))
    closed = interval.endswith(']')
    allowed = f'a number in {interval}'
    if high == math.inf:
        allowed = f'a number{"" if closed else ", finite and"} >= {low:g}'

    def refusal(value: Any) -> Refusal:
        if or_schedule and callable(value):
            return None
        if isinstance(value, _ARRAYS):
            return _array_refusal(value, np.integer, np.floating)
        plain = isinstance(value, (int, float, np.integer, np.floating))
        if isinstance(value, bool) or not plain:
            return TypeError
        try:
            number = float(value)
        except OverflowError:  # an integer that no float holds
            return ValueError
        below = number <= high if closed else max(number, _rounded(number)) < high
        return None if low <= number and below else ValueError

    return _Kind(allowed, refusal)


def _integer(low: int, below: float = math.inf) -> _Kind:
    def refusal(value: Any) -> Refusal:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return TypeError
        return None if low <= int(value) < below else ValueError

    ends = '' if below == math.inf else f' and < {below}'
    return _Kind(f'an integer >= {low}{ends}', refusal)


def _dtype(*, real: bool = False) -> _Kind:
    """None, or a dtype in which gradients or, if `real`, second moments are stored."""

    def refusal(value: Any) -> Refusal:
        dtype = _dtype_of(value)
        if value is not None and (
            dtype is None
            or not jnp.issubdtype(dtype, np.floating if real else jnp.inexact)
            or (info := jnp.finfo(dtype)).bits < 8  # type: ignore[no-untyped-call]
            or not info.min < 0
        ):
            return TypeError
        return None

    return _Kind(
        f'None or a {"real " if real else ""}floating dtype with a sign, a zero and '
        "at least 8 bits (inside optax.inject_hyperparams by its name, 'bfloat16', "
        'because a scalar type is callable and would be taken for a schedule)',
        refusal,
        lambda value: dtype.name if (dtype := _dtype_of(value)) else repr(value),
    )


def _dtype_of(value: Any) -> np.dtype[Any] | None:
    # An array has a dtype, but whoever passes one did not mean to choose it.
    if isinstance(value, _ARRAYS):
        return None
    try:
        return jax.dtypes.canonicalize_dtype(value)
    except (TypeError, ValueError):  # the latter of the dtypes of keys
        return None


def _key_refusal(value: Any) -> Refusal:
    if isinstance(value, _ARRAYS):
        return _array_refusal(value, np.integer, jax.dtypes.prng_key)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return TypeError
    return None if 0 <= int(value) < 2**32 else ValueError


def _no_boolean(mask: Any) -> Any:
    """The first leaf of a mask that is neither a function nor booleans, in a list."""
    return [
        leaf
        for leaf in ([] if callable(mask) else jax.tree.leaves(mask))
        if not jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), np.bool_)
    ][:1]


def _names_refusal(value: Any) -> Refusal:
    named = isinstance(value, (tuple, list)) and all(isinstance(v, str) for v in value)
    return None if named else TypeError


def _instance_of(types: Any, allowed: str) -> _Kind:
    return _Kind(allowed, lambda value: None if isinstance(value, types) else TypeError)


_MAY_BE = {
    'learning_rate weight_decay': _number('[0, inf)', or_schedule=True),
    'eps eps_root gamma switch_tolerance c': _number('[0, inf)'),
    'init_value peak_value decay_rate': _number('[0, inf)'),
    'max_norm': _number('[0, inf]'),
    'max_gain': _number('[1, inf)'),
    'threshold': _number('[4, inf)'),
    'b1 b2 beta': _number('[0, 1)'),
    'min_gain keep_prob': _number('[0, 1]'),
    'min_size': _integer(low=0),
    'block_size': _integer(low=1),
    'transition_steps': _integer(low=1, below=2**31),
    'nesterov amsgrad': _instance_of((bool, np.bool_), 'True or False'),
    'mu_dtype prev_grad_dtype': _dtype(),
    'nu_dtype': _dtype(real=True),
    'nonnegative exact': _Kind(
        "a tuple or list of field names such as ('nu',)", _names_refusal
    ),
    'mask': _Kind(
        'None, a function or a tree of booleans',
        lambda mask: TypeError if _no_boolean(mask) else None,
        lambda mask: f'{_no_boolean(mask)[0]!r} in it',
    ),
    'key': _Kind(
        'an integer in [0, 2**32) or a typed key such as jax.random.key(0)',
        _key_refusal,
    ),
    'inner': _instance_of(
        optax.GradientTransformation,
        'an optax transformation such as optax.scale_by_adam() (of an '
        'optax.MultiSteps, what its gradient_transformation() returns)',
    ),
}
_KIND_OF = {name: kind for row, kind in _MAY_BE.items() for name in row.split()}
