"""diffGrad: Adam's step times the friction of a changing gradient."""

from typing import Any

import jax
import optax

from diffgrad_optax._moments import scale_by_adam
from diffgrad_optax._optimizer import Mask, optimizer
from diffgrad_optax._with_friction import with_friction
from diffgrad_optax.friction import Friction


def scale_by_diffgrad(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    friction: str | Friction = 'dfc',
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by diffGrad: :func:`diffgrad` without the learning rate.

    Args:
      b1, b2, eps, eps_root, mu_dtype, nesterov: as :func:`diffgrad`.
      friction, nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation with state :class:`FrictionState` whose `inner_state` is
      `optax.ScaleByAdamState`.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    The first step, where Adam's is ±1 whatever the gradient's size:

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import scale_by_diffgrad
    >>> optimizer = scale_by_diffgrad()
    >>> state = optimizer.init(jnp.zeros(3))
    >>> updates, state = optimizer.update(jnp.array([0.001, 1.0, -5.0]), state)
    >>> print(updates)
    [ 0.5002  0.7311 -0.9933]
    """
    adam = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov=nesterov)
    return with_friction(adam, friction, prev_grad_dtype=prev_grad_dtype)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    friction: str | Friction = 'dfc',
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The diffGrad optimizer: Adam whose steps shrink where gradients settle.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, &
        \hat m_t &= m_t / (1 - \beta_1^t) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, &
        \hat v_t &= v_t / (1 - \beta_2^t) \\
        \xi_t &= \sigma(|g_{t-1} - g_t|), &
        \theta_{t+1} &= \theta_t - \alpha_t\, \xi_t\, \hat m_t
            / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)

    elementwise, from :math:`m_0 = v_0 = g_0 = 0`.

    Use it where you would use Adam and gradients are large enough to differ:
    :math:`\xi` sees their absolute size. With gradients of 1e-3 and below diffGrad is
    Adam at half the learning rate; :func:`friction_coefficients` shows which you have.

    Memory: three arrays per parameter, one more than Adam. :doc:`/docs/limits` says
    what each dtype can hold; with bfloat16 parameters give ``nu_dtype='float32'``.
    Deviations from paper, published codes and optax: :doc:`/docs/theory/diffgrad`.

    Args:
      learning_rate: :math:`\alpha_t`, a number >= 0 or a schedule. Traceable.
      b1: :math:`\beta_1`, decay rate of the first moment, in [0, 1). Traceable.
      b2: :math:`\beta_2`, decay rate of the second moment, in [0, 1). Traceable.
      eps: :math:`\varepsilon`, added outside the root, >= 0. Traceable.
      eps_root: :math:`\bar\varepsilon`, added inside the root, >= 0. Traceable.
      mu_dtype: dtype of the first moment; None is the parameter's own. Static.
      nesterov: whether to use Nesterov momentum, as `optax.nadam`. Static.
      friction: :math:`\xi`, a name from :mod:`diffgrad_optax.friction` or a function
        ``(grad, prev_grad) -> coefficient`` on one array. Static.
      weight_decay: decoupled decay :math:`\lambda`, a number >= 0 or a schedule: adds
        :math:`-\alpha_t \lambda \theta_t` to the update, so that `update` needs
        `params`. None adds nothing. Traceable.
      mask: where to decay: a tree of booleans, shaped like the parameters or a prefix
        of them, or a function from the parameters to one. Static.
      nu_dtype: dtype of the second moment, real; None is the parameter's own. Static.
      prev_grad_dtype: dtype of :math:`g_{t-1}`; None is the parameter's own. Static.

    Returns:
      A transformation whose state is the chain's tuple, :class:`FrictionState` first.
      Updates have the gradients' dtype.

    Raises:
      ValueError: if an argument is out of range, or gradients do not fit the state.
      TypeError: if an argument, gradient or state is of a wrong type.

    Example: an element whose gradient repeats moves by half of Adam's step, one whose
    gradient changes by 6 by nearly all of it.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import diffgrad
    >>> params = jnp.zeros(2)
    >>> grads = [jnp.array([1.0, 1.0]), jnp.array([1.0, 7.0])]
    >>> for optimizer in (optax.adam(0.1), diffgrad(0.1)):
    ...     state = optimizer.init(params)
    ...     for g in grads:
    ...         updates, state = optimizer.update(g, state)
    ...     print(updates)
    [-0.1    -0.0831]
    [-0.05   -0.0829]

    References:
      Dubey et al., `diffGrad: An Optimization Method for Convolutional Neural
      Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020, Eqs. 11-20.
    """
    adam = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov=nesterov)
    scaled = with_friction(adam, friction, prev_grad_dtype=prev_grad_dtype)
    return optimizer(learning_rate, weight_decay, mask, scaled)


def diffgradw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    friction: str | Friction = 'dfc',
    weight_decay: optax.ScalarOrSchedule | None = 1e-4,
    mask: Mask = None,
    nu_dtype: Any = None,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The diffGrad optimizer with decoupled weight decay, as AdamW is to Adam.

    .. math::

        \theta_{t+1} = \theta_t - \alpha_t \left(
            \xi_t\, \hat m_t / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)
            + \lambda \theta_t \right)

    with the symbols of :func:`diffgrad` and :math:`\lambda` `weight_decay`. The
    decay is multiplied by the learning rate and not by the friction, and no
    moment sees it.

    Deviation: the paper has no weight decay. `pytorch_optimizer`'s is this one by
    default; that of `torch_optimizer` is coupled: it is added to the gradient, so
    moments and friction see it. That is
    ``optax.chain(optax.add_decayed_weights(weight_decay), diffgrad(...))``.

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype: as :func:`diffgrad`.
      nesterov, friction, weight_decay, mask: as :func:`diffgrad`.
      nu_dtype, prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation as :func:`diffgrad`'s, whose `update` needs `params`.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: a zero gradient moves nothing but decays.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import diffgradw
    >>> params = {'w': jnp.array(2.0), 'b': jnp.array(2.0)}
    >>> optimizer = diffgradw(0.1, weight_decay=0.5, mask={'w': True, 'b': False})
    >>> grads = {'w': jnp.array(0.0), 'b': jnp.array(0.0)}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> print(updates['w'], updates['b'])
    -0.1 -0.0

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, ICLR 2019; for the rest see
      :func:`diffgrad`.
    """
    adam = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov=nesterov)
    scaled = with_friction(adam, friction, prev_grad_dtype=prev_grad_dtype)
    return optimizer(learning_rate, weight_decay, mask, scaled)
