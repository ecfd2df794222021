r"""Friction coefficients: how much of a step survives a change of the gradient.

Each function takes the gradient :math:`g_t` of one array and its previous
gradient :math:`g_{t-1}` (zero before the first step) and returns the factor
:math:`\xi_t` for that array's update. With :math:`\sigma(x) = 1/(1 + e^{-x})`
and, for one whole array, :math:`\mu` the mean and :math:`\nu` the population
standard deviation of :math:`|g_t|` and :math:`\mathrm{rms} = \sqrt{\mathrm{mean}\,
|g_t|^2}`:

==============  ==================================  =================  ==========
name            :math:`\xi_t`                       range              looks at
==============  ==================================  =================  ==========
`dfc`           σ(\|g_{t-1} − g_t\|)                [½, 1)             element
`dfc1`          σ(g_{t-1} − g_t)                    (0, 1)             element
`dfc2`          9 σ(½ \|g_{t-1} − g_t\|) − 4        [½, 5)             element
`dfc3`          σ(ν \|g_{t-1} − g_t\| − μ)          [σ(−μ), 1)         array
`dfc4`          σ(ν² \|g_{t-1} − g_t\| − μ)         [σ(−μ), 1)         array
`dfc5`          σ(√ν \|g_{t-1} − g_t\| − μ)         [σ(−μ), 1)         array
`relative_dfc`  σ(\|g_{t-1} − g_t\| / rms)          [½, 1)             array
==============  ==================================  =================  ==========

In floating point a coefficient may round to an open bound.

Arithmetic and result are float32 or wider, whatever the gradients are stored in: in
bfloat16 the sigmoid is exactly ½ for every difference up to 1e-3. For complex gradients
:math:`|\cdot|` is the modulus. `dfc3` to `dfc5` and `relative_dfc` sum squares: in
float32 an array's norm must stay below 1.8e19, and for `relative_dfc` the rms above
1e-18.

The derivative of a root is taken as 0 at 0. Where all gradients of an array are zero
`relative_dfc` has no meaningful derivative: ξ jumps as soon as one of them is not.

References:
  Dubey et al., `diffGrad: An Optimization Method for Convolutional Neural
  Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020: Eqs. 17 to 19
  for `dfc`, Sec. VII-B for `dfc1` to `dfc5`. `relative_dfc` is this package's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import at_least_float32

__all__ = (
    'COEFFICIENTS',
    'dfc',
    'dfc1',
    'dfc2',
    'dfc3',
    'dfc4',
    'dfc5',
    'relative_dfc',
)

Friction = Callable[[jax.Array, jax.Array], jax.Array]


def dfc(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""The coefficient of diffGrad: :math:`\xi_t = \sigma(|g_{t-1} - g_t|)`.

    Args:
      grad: :math:`g_t`, any shape, real or complex.
      prev_grad: :math:`g_{t-1}`, the same shape.

    Returns:
      The coefficient in [½, 1), the same shape, float32 or wider.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import friction
    >>> grad, prev_grad = jnp.array([0.0, 1.0, -1.0]), jnp.array([0.0, 0.0, 3.0])
    >>> print(friction.dfc(grad, prev_grad))
    [0.5  0.7311 0.9820]
    """
    return jax.nn.sigmoid(_distance(grad, prev_grad))


def dfc1(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""The sign-sensitive coefficient: :math:`\xi_t = \sigma(g_{t-1} - g_t)`.

    Args:
      grad: :math:`g_t`, any shape, real.
      prev_grad: :math:`g_{t-1}`, the same shape.

    Returns:
      The coefficient in (0, 1), the same shape, float32 or wider.

    Raises:
      TypeError: for complex gradients, whose differences have no sign.
    """
    difference = _difference(grad, prev_grad)
    if jnp.iscomplexobj(difference):
        raise TypeError(
            "friction 'dfc1' needs the sign of g_{t-1} - g_t: gradients must be real, "
            f'got {difference.dtype.name}'
        )
    return jax.nn.sigmoid(difference)


def dfc2(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""The wide coefficient: :math:`\xi_t = 9\,\sigma(|g_{t-1} - g_t|/2) - 4`.

    Deviation: the paper's typesetting puts the -4 inside the denominator of the
    sigmoid. Only this reading has the range that the paper states.

    Args:
      grad, prev_grad: as :func:`dfc`.

    Returns:
      The coefficient in [½, 5), the same shape, float32 or wider. Above 1 it
      lengthens the step.
    """
    return 9.0 * jax.nn.sigmoid(_distance(grad, prev_grad) / 2.0) - 4.0


def dfc3(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""By the array's spread: :math:`\xi_t = \sigma(\nu|g_{t-1} - g_t| - \mu)`.

    Deviation, for `dfc4` and `dfc5` too: the paper's :math:`\mu` and :math:`\nu` are
    "of absolute gradients of the batch"; here they are each array's. The paper's range
    [½, 1] cannot hold, because equal gradients give :math:`\sigma(-\mu) < 1/2`: where
    gradients are large and steady, :math:`\mu \gg 1`, these three nearly stop.

    Args:
      grad, prev_grad: as :func:`dfc`.

    Returns:
      The coefficient in [σ(−μ), 1), the same shape, float32 or wider.
    """
    mean, deviation = _statistics(grad)
    return jax.nn.sigmoid(deviation * _distance(grad, prev_grad) - mean)


def dfc4(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""By the array's variance: :math:`\xi_t = \sigma(\nu^2|g_{t-1} - g_t| - \mu)`.

    As :func:`dfc3`, deviations included, with the variance in place of ν.
    """
    mean, deviation = _statistics(grad)
    return jax.nn.sigmoid(deviation**2 * _distance(grad, prev_grad) - mean)


def dfc5(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    r"""By the root of ν: :math:`\xi_t = \sigma(\sqrt\nu|g_{t-1} - g_t| - \mu)`.

    As :func:`dfc3`, deviations included, with the square root of ν in its place.
    """
    mean, deviation = _statistics(grad)
    return jax.nn.sigmoid(_root(deviation) * _distance(grad, prev_grad) - mean)


def relative_dfc(
    grad: jax.Array, prev_grad: jax.Array, c: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    r"""A scale-free coefficient: :math:`\xi_t = \sigma(c|g_{t-1} - g_t|/\mathrm{rms})`.

    The change is measured against the root mean square of the array's gradient,
    so that a loss multiplied by 100 or by 0.01 has the same friction; the paper's
    coefficients would all differ. It is well away from ½ where gradients change by
    a sizeable part of their rms, as those of minibatches do; where a smooth loss is
    followed in full, or a few elements make up the rms, it is near ½ too. Before the
    first gradient there is none to differ from: there ξ is
    :math:`\sigma(c|g_t|/\mathrm{rms})`.

    Args:
      grad, prev_grad: as :func:`dfc`.
      c: how much a change counts, >= 0: ``functools.partial(relative_dfc, c=3.0)``.
        At 1 a change as large as the rms gives 0.73. Traceable.

    Returns:
      The coefficient in [½, 1), the same shape, float32 or wider; ½ where the
      gradient repeats, zero or not.

    Raises:
      ValueError, TypeError: if `c` is a plain number out of range, or not one.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import friction
    >>> grad, prev_grad = jnp.array([3.0, 4.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
    >>> for scale in (1e-4, 1.0, 1e4):
    ...     print(friction.relative_dfc(scale * grad, scale * prev_grad))
    [0.5       0.7387 0.5      ]
    [0.5       0.7387 0.5      ]
    [0.5       0.7387 0.5      ]
    """
    check(c=c)
    distance = _distance(grad, prev_grad)
    rms = _root(_mean(_modulus(grad) ** 2)).astype(distance.dtype)
    # Where all gradients are zero, ξ is ½ if the previous one was zero too, else 1.
    tiny = np.finfo(distance.dtype).tiny
    return jax.nn.sigmoid(jnp.asarray(c, distance.dtype) * distance / (rms + tiny))


def _difference(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    dtype = at_least_float32(grad, prev_grad)
    return jnp.asarray(prev_grad, dtype) - jnp.asarray(grad, dtype)


def _distance(grad: jax.Array, prev_grad: jax.Array) -> jax.Array:
    return jnp.abs(_difference(grad, prev_grad))


def _modulus(grad: jax.Array) -> jax.Array:
    return jnp.abs(jnp.asarray(grad, at_least_float32(grad)))


def _statistics(grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the population standard deviation of |g| over one array."""
    size = _modulus(grad)
    mean = _mean(size)
    return mean, _root(_mean((size - mean) ** 2))


def _mean(x: jax.Array) -> jax.Array:
    """The mean, and 0 of no numbers, which is no NaN for `jax_debug_nans` to find."""
    return jnp.zeros((), x.dtype) if 0 in x.shape else jnp.mean(x)


def _root(x: jax.Array) -> jax.Array:
    """√x, whose derivative at 0 is 0: an array of one element has no deviation."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


#: Every coefficient by the name that `friction=` takes.
COEFFICIENTS: dict[str, Friction] = {
    f.__name__: f for f in (dfc, dfc1, dfc2, dfc3, dfc4, dfc5, relative_dfc)
}


def resolve(friction: str | Friction) -> Friction:
    """The coefficient function that the argument `friction` stands for.

    Raises:
      ValueError: if it is a name that does not exist.
      TypeError: if it is neither a name nor callable.
    """
    if callable(friction):
        return friction
    if isinstance(friction, str) and friction in COEFFICIENTS:
        return COEFFICIENTS[friction]
    error = ValueError if isinstance(friction, str) else TypeError
    raise error(
        f'friction must be a callable or one of {", ".join(COEFFICIENTS)}, '
        f'got {friction!r}'
    )
