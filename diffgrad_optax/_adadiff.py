"""AdaDiff: Adam whose second moment also sees the change of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import scalar
from diffgrad_optax._frame import Stepped, framed
from diffgrad_optax._moments import bias_correction
from diffgrad_optax._optimizer import Mask, optimizer
from diffgrad_optax._params import zeros


class AdadiffState(NamedTuple):
    """State of :func:`scale_by_adadiff`; all trees are shaped like params."""

    #: t, int32, scalar.
    count: jax.Array  # type: ignore[assignment]
    mu: optax.Updates  #: m_t, dtype mu_dtype.
    nu: optax.Updates  #: v_t with its ε, real, dtype nu_dtype.
    nu_max: optax.Updates | None  #: the largest v so far; None without amsgrad.
    prev_grad: optax.Updates  #: g_{t-1}, dtype prev_grad_dtype.


def scale_by_adadiff(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-8,
    *,
    amsgrad: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by AdaDiff: :func:`adadiff` without learning rate and decay.

    Args:
      b1, b2, eps: as :func:`diffgrad`.
      eps_root, amsgrad: as :func:`adadiff`.
      mu_dtype, nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation with state :class:`AdadiffState`.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: a first step is ±1/√2: the change from no gradient counts as much as the
    gradient. Where it then repeats, steps grow to ±1.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import scale_by_adadiff
    >>> optimizer = scale_by_adadiff(b2=0.5)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for grads in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
    ...     updates, state = optimizer.update(grads, state)
    ...     print(updates.round(4))
    [0.7071 0.7071]
    [ 0.866  -0.0263]
    """
    check(b1=b1, b2=b2, eps=eps, eps_root=eps_root, amsgrad=amsgrad)
    check(mu_dtype=mu_dtype, nu_dtype=nu_dtype, prev_grad_dtype=prev_grad_dtype)

    def init(params: optax.Params) -> AdadiffState:
        nu = zeros(params, nu_dtype=nu_dtype, real=True)
        return AdadiffState(
            count=jnp.zeros((), jnp.int32),
            mu=zeros(params, mu_dtype=mu_dtype),
            nu=nu,
            nu_max=jax.tree.map(jnp.copy, nu) if amsgrad else None,
            prev_grad=zeros(params, prev_grad_dtype=prev_grad_dtype),
        )

    def first_moment(g: jax.Array, m: jax.Array) -> jax.Array:
        β1 = scalar(b1, g, m)
        return β1 * m + (1 - β1) * g

    def second_moment(g: jax.Array, q: jax.Array, v: jax.Array) -> jax.Array:
        # v_t = β2 v_{t-1} + (1 − β2) (|g|² + |g − q|²) + ε
        β2, ε = scalar(b2, g, q, v), scalar(eps_root, g, q, v)
        squares = jnp.square(jnp.abs(g)) + jnp.square(jnp.abs(g - q))
        return β2 * v + ((1 - β2) * squares + ε)

    def step(grads: optax.Updates, state: AdadiffState, **_: Any) -> Stepped:
        t = optax.safe_increment(state.count)
        mu = jax.tree.map(first_moment, grads, state.mu)
        nu = jax.tree.map(second_moment, grads, state.prev_grad, state.nu)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            m_hat = m / bias_correction(b1, t, v.dtype)
            v_hat = v / bias_correction(b2, t, v.dtype)
            return m_hat / (jnp.sqrt(v_hat) + scalar(eps, v))

        updates = jax.tree.map(direction, mu, nu_max if amsgrad else nu)
        return updates, AdadiffState(t, mu, nu, nu_max, prev_grad=grads), (nu,)

    return framed(AdadiffState, init, step)


def adadiff(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 0.0,
    eps_root: jax.typing.ArrayLike = 1e-8,
    *,
    amsgrad: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The AdaDiff optimizer: shorter steps where the gradient changes.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2)
            \left( |g_t|^2 + |g_t - g_{t-1}|^2 \right) + \bar\varepsilon \\
        \theta_{t+1} &= \theta_t - \alpha_t \left(
            \frac{m_t / (1 - \beta_1^t)}
                 {\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}
            + \lambda \theta_t \right)

    elementwise, from :math:`m_0 = v_0 = g_0 = 0`, with :math:`\bar\varepsilon`
    `eps_root`; with `amsgrad` :math:`\max(v_1, \ldots, v_t)` takes the place of
    :math:`v_t` in the root.

    Use it where you would use AdaBelief, whose idea it shares: a gradient that keeps
    its value makes long steps, one that jumps makes short ones. diffGrad does the
    opposite. Steps do not depend on the gradients' size, as far as `eps_root` is small
    against their squares: it sums up to `eps_root` / (1 - b2), 1e-5 with the defaults.
    A steady gradient of 3e-3 makes 0.7 of a full step, one of 3e-4 a tenth. Use 1e-16
    for smaller ones, as the authors do for language models.

    Memory: three arrays per parameter, one more with `amsgrad`; :doc:`/docs/limits`
    says what each dtype can hold. Deviations from paper and published code:
    :doc:`/docs/theory/relatives`.

    Args:
      learning_rate, b1, b2, eps: as :func:`diffgrad`.
      eps_root: added to the second moment at every step, >= 0. With 0 an element
        without a gradient so far is 0/0, unless `eps` is positive. Traceable.
      amsgrad: whether to divide by the largest second moment so far. Static.
      weight_decay, mask: as :func:`diffgrad`.
      mu_dtype, nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation whose state is the chain's tuple, :class:`AdadiffState`
      first. Updates have the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: both elements move by gradients of size 1, one of them zigzags.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import adadiff
    >>> params = jnp.zeros(2)
    >>> for optimizer in (optax.adam(0.1, b1=0.0), adadiff(0.1, b1=0.0)):
    ...     state = optimizer.init(params)
    ...     for g in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
    ...         updates, state = optimizer.update(g, state, params)
    ...     print(updates)
    [-0.1  0.1]
    [-0.0817  0.0534]

    References:
      "AdaDiff: Adaptive Gradient Descent with the Differential of Gradient", by its
      `code <https://github.com/deerOfHd/AdaDiff_v1>`_. Reddi et al., `On the
      Convergence of Adam and Beyond <https://arxiv.org/abs/1904.09237>`_, ICLR 2018,
      Algorithm 2, for the maximum.
    """
    storage = {'nu_dtype': nu_dtype, 'prev_grad_dtype': prev_grad_dtype}
    scaled = scale_by_adadiff(
        b1, b2, eps, eps_root, amsgrad=amsgrad, mu_dtype=mu_dtype, **storage
    )
    return optimizer(learning_rate, weight_decay, mask, scaled)
