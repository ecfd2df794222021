"""diffRGrad: rectified Adam with the friction of a changing gradient."""

from typing import Any

import jax
import optax

from diffgrad_optax._optimizer import Mask, optimizer
from diffgrad_optax._radam import scale_by_radam
from diffgrad_optax._with_friction import with_friction
from diffgrad_optax.friction import Friction


def diffrgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    threshold: jax.typing.ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    friction: str | Friction = 'dfc',
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The diffRGrad optimizer: diffGrad on RAdam, which warms itself up.

    .. math::

        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}
                          {(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}} \\
        \theta_{t+1} &= \theta_t - \alpha_t\, \xi_t \cdot
            \begin{cases}
                r_t\, \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
                    & \rho_t \ge \rho_\min \\
                \hat m_t & \text{otherwise}
            \end{cases}

    with the moments, :math:`\xi_t` and symbols of :func:`diffgrad`, and
    :math:`\rho_\min` `threshold`: friction around `optax.scale_by_radam`, and a
    learning rate.

    Use it where you would write a warm-up by hand: the second moment is not divided by
    before enough gradients are seen (five steps with the defaults), and those first
    steps are as long as the gradient is large.

    Memory and dtypes: as :func:`diffgrad`. Deviations: RAdam's paper takes
    :math:`\rho_t > 4`; the 5 here is its code's and optax's. :math:`\rho_t` is computed
    without a difference of large numbers, by which `optax.scale_by_radam` is wrong by
    up to a percent in float32 at `b2` 0.999, and rectifies too early from 0.9995 on.

    Args:
      learning_rate, b1, b2, eps, eps_root: as :func:`diffgrad`.
      threshold: the :math:`\rho_t` from which on the second moment is used, at
        least 4, below which :math:`r_t` does not exist. 5 is never reached
        with `b2` below 2/3, where :math:`\rho_\infty < 5`. Traceable.
      nesterov, friction, weight_decay, mask: as :func:`diffgrad`.
      mu_dtype, nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation whose state is the chain's tuple, :class:`FrictionState`
      first. Updates have the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: the first steps are the gradient times ξ, whatever its size.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import diffrgrad
    >>> optimizer = diffrgrad(1.0)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([2.0, 0.01]), state)
    ...     print(updates.tolist())
    [-1.7616, -0.0050]
    [-1.0000, -0.0050]

    References:
      Dubey et al., `diffGrad: An Optimization Method for Convolutional Neural
      Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020.
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond
      <https://arxiv.org/abs/1908.03265>`_, ICLR 2020, Algorithm 2.
    """
    radam = scale_by_radam(
        b1, b2, eps, eps_root, threshold, mu_dtype, nu_dtype, nesterov=nesterov
    )
    scaled = with_friction(radam, friction, prev_grad_dtype=prev_grad_dtype)
    return optimizer(learning_rate, weight_decay, mask, scaled)
