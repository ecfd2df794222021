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
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \hat m_t &= m_t / (1 - \beta_1^t), &
        \hat v_t &= v_t / (1 - \beta_2^t) \\
        \xi_t &= \sigma(|g_{t-1} - g_t|), &
        \theta_{t+1} &= \theta_t - \alpha_t\, \xi_t\, \hat m_t
            / (\sqrt{\hat v_t + \bar\varepsilon} + \varepsilon)

    elementwise, from :math:`m_0 = v_0 = g_0 = 0`. In arguments: :math:`\alpha_t`
    is `learning_rate`, :math:`\beta_1` `b1`, :math:`\beta_2` `b2`,
    :math:`\varepsilon` `eps`, :math:`\bar\varepsilon` `eps_root` and :math:`\xi`
    `friction`.

    Reach for it where you would use Adam and gradients are large enough to
    differ: :math:`\xi` sees their absolute size. With gradients of 1e-3 and below
    it is ½ to three digits, and diffGrad is Adam at half the learning rate;
    :func:`friction_coefficients` shows which you have.

    Memory: three arrays per parameter (:math:`m`, :math:`v`, :math:`g_{t-1}`) in
    the parameter's dtype, one more than Adam. Each may be stored in another dtype.
    Friction is computed in float32 at least, the moments too if one of them has a
    dtype of its own. With bfloat16 parameters give ``nu_dtype='float32'``: in
    bfloat16 a second moment never shrinks, because 0.999 v rounds to v.

    As :math:`\sigma` has no slope above ¼, rounding :math:`g_{t-1}` moves :math:`\xi`
    by at most ¼ of the rounding, which is up to 1/256 of :math:`|g_{t-1}|` in bfloat16,
    1/16 in float8_e4m3fn and 1/8 in float8_e5m2, or for smaller gradients 1e-3 and
    8e-6: small where gradients are below 1, except for `relative_dfc`. Beyond 448
    float8_e4m3fn stores NaN; beyond 57344 float8_e5m2 and beyond 65504 float16 store
    infinity. A second moment that its dtype rounds to 0 leaves :math:`\varepsilon` to
    divide by: below 3e-8 in float16, 8e-6 in float8_e5m2, 1e-3 in float8_e4m3fn. With
    float16 parameters give ``nu_dtype='float32'`` too, or `eps` 1e-7 at least: 1e-8 is
    0 there, as in `optax.adam`. :func:`quantize_state` stores all three in 3.1 bytes
    without such limits.

    With bfloat16 parameters, give :func:`optax.inject_hyperparams` the argument
    ``hyperparam_dtype=jnp.float32``: it casts hyperparameters to the parameters'
    dtype otherwise, and 0.999 in bfloat16 is 1.

    Deviations. From the paper: its text wants an ε of "about 1e-7"; 1e-8 is
    its code's. From the authors' code and other PyTorch ports: those add ε
    before the second moment is bias-corrected, an effective
    :math:`\varepsilon/\sqrt{1 - \beta_2^t}` in the equation above; here, as in
    the paper and in `optax.adam`, it is added after. From the authors' first
    code: it compared the gradient with itself, so that :math:`\xi = 1/2` after the
    first step.
    Nesterov momentum and `eps_root` are `optax.adam`'s, not the paper's. From
    `optax.adam`: that multiplies a moment stored in `mu_dtype` by `b1` in that dtype;
    here it is widened to float32 first.

    Args:
      learning_rate: :math:`\alpha_t`, a number >= 0 or a schedule. Traceable.
      b1: decay rate of the first moment, in [0, 1). Traceable.
      b2: decay rate of the second moment, in [0, 1). Traceable.
      eps: added to the denominator outside the root, >= 0. Traceable.
      eps_root: added to the denominator inside the root, >= 0; needed only to
        differentiate through the update. Traceable.
      mu_dtype: dtype of the first moment; None is the parameter's own. Static.
      nesterov: whether to use Nesterov momentum, as `optax.nadam`. Static.
      friction: a name from :mod:`diffgrad_optax.friction` or a callable
        ``(grad, prev_grad) -> coefficient`` on one array, called with float32 or
        wider. Static. A callable inside :func:`optax.inject_hyperparams` needs
        ``static_args='friction'``, and a dtype its name (``'bfloat16'``).
      weight_decay: decoupled decay :math:`\lambda`, a number >= 0 or a schedule,
        which adds :math:`-\alpha_t \lambda \theta_t` to the update, so that `update`
        needs `params`. None adds nothing. Traceable.
      mask: where to decay: a tree of booleans shaped like the parameters or a prefix
        of them, or a function from the parameters to one. None decays everything.
        Static; a function inside :func:`optax.inject_hyperparams` needs
        ``static_args='mask'``, or it is taken for a schedule.
      nu_dtype: dtype of the second moment, real; None is the parameter's own. Static.
      prev_grad_dtype: dtype in which the previous gradient is stored; None is
        the parameter's own. Static.

    Returns:
      A transformation whose state is the chain's tuple, :class:`FrictionState`
      first. Updates have the gradients' dtype, rounded to it before the learning rate
      and after: where gradients are narrower than parameters, widen them first.

    Raises:
      ValueError: if a plain number is out of its range, NaN or infinite, if
        `friction` is an unknown name, or (by `update`) if the gradients do not
        fit the state.
      TypeError: if an argument is no number, callable or floating dtype where
        one is needed, or (by `update`) as :func:`with_friction`.

    Example: an element whose gradient repeats moves at half of Adam's step, one
    whose gradient changes by more than 5 at all but a hundredth of it.

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
      Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020, Eqs. 11-13
      (moments), 17-19 (friction), 20 (step).
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
