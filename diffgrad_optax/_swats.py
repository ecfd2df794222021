"""SWATS: from Adam to SGD, at the learning rate that Adam's steps come to."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import (
    at_least_float32,
    keep_state_dtypes,
    real_dtype,
    stable_dtypes,
)
from diffgrad_optax._fit import check_state, fitting_gradients
from diffgrad_optax._frame import following_params
from diffgrad_optax._moments import bias_correction
from diffgrad_optax._optimizer import Mask, decay, product
from diffgrad_optax._params import check_params
from diffgrad_optax._sharding import zero_for


class SwatsState(NamedTuple):
    """State of :func:`swats`.

    The scalars but for the counts are float32, or the parameters' dtype if wider.
    """

    #: t, int32.
    count: jax.Array  # type: ignore[assignment]
    switch_step: jax.Array  #: the t of the switch, int32; 0 in Adam's phase.
    sgd_rate: jax.Array  #: Λ, the learning rate found for SGD; 0 in Adam's phase.
    adam_rate: jax.Array  #: α at the switch; 0 in Adam's phase.
    average: jax.Array  #: λ_t, of the rates that Adam's steps come to.
    adam_state: optax.ScaleByAdamState  #: its mu is SGD's momentum after the switch.

    @property
    def in_sgd_phase(self) -> jax.Array:
        """Whether the next step is SGD's, a boolean scalar."""
        return self.switch_step > 0


def swats(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-9,
    *,
    switch_tolerance: jax.typing.ArrayLike = 1e-9,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The SWATS optimizer: Adam, then SGD with a learning rate found on the way.

    Adam's step :math:`p_t = -\alpha_t \hat m_t / (\sqrt{\hat v_t} + \varepsilon)`,
    projected on the gradient, is a step of SGD with the learning rate
    :math:`\gamma_t`. When that rate has settled, SGD takes over with it:

    .. math::

        \gamma_t &= \frac{p_t \cdot p_t}{-p_t \cdot g_t}, \qquad
        \lambda_t = \beta_2 \lambda_{t-1} + (1 - \beta_2) \gamma_t
            \qquad (p_t \cdot g_t \ne 0) \\
        \text{switch at the first } t > 1 \text{ with }
            & |\lambda_t / (1 - \beta_2^t) - \gamma_t| < \tau,
            \quad \Lambda = \lambda_t / (1 - \beta_2^t) \\
        \text{after that } & v_t = \beta_1 v_{t-1} + g_t, \qquad
            \theta_{t+1} = \theta_t - (1 - \beta_1) \Lambda\, v_t

    from :math:`v = 0`; the products run over the whole tree, and :math:`\tau` is
    `switch_tolerance`. A schedule goes on after a switch at the rate :math:`\alpha_s`:
    the rate is :math:`\Lambda\, \alpha_t / \alpha_s`.

    Use it where SGD generalizes better than Adam and you do not want to tune its
    learning rate. The state says what happened: `in_sgd_phase`, `switch_step`,
    `sgd_rate`; behind a chain ``optax.tree.get(state, 'sgd_rate')`` finds it.

    Memory: two arrays per parameter. Time: 3.5 times Adam's on a CPU, because two sums
    over the whole step decide whether the first moment is kept. The tolerance is
    absolute, in the unit of :math:`\gamma_t`: about the learning rate divided by the
    gradients' size. In float32 rates above 1.6e-2 need a larger one.

    Deviations: ε is added after the bias correction, as in optax. A switch needs
    :math:`\Lambda > 0`: the paper's algorithm would climb after a step uphill.

    Args:
      learning_rate: as :func:`diffgrad`.
      b1: decay rate of the first moment and SGD's momentum, in [0, 1). Traceable.
      b2: decay rate of the second moment and of the average rate, in [0, 1).
        Traceable.
      eps: as :func:`diffgrad`.
      switch_tolerance: :math:`\tau`, >= 0; with 0 it stays Adam. Traceable.
      weight_decay, mask: as :func:`diffgrad`.

    Returns:
      A transformation with state :class:`SwatsState`, or with weight decay a chain's
      tuple, that first. Updates have the gradients' dtype.

    Raises:
      ValueError, TypeError: as :func:`diffgrad`.

    Example: under a constant gradient Adam's step is α, the SGD rate α/g.

    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import swats
    >>> optimizer = swats(0.1, switch_tolerance=1e-6)
    >>> state = optimizer.init(jnp.zeros(1))
    >>> for _ in range(3):
    ...     updates, state = optimizer.update(jnp.array([4.0]), state)
    ...     print(bool(state.in_sgd_phase), int(state.switch_step), updates)
    False 0 [-0.1]
    True 2 [-0.1]
    True 2 [-0.01]
    >>> print(f'{state.sgd_rate:.4f}')
    0.0250

    References:
      Keskar and Socher, `Improving Generalization Performance by Switching from
      Adam to SGD <https://arxiv.org/abs/1712.07628>`_, 2017, Algorithm 1.
    """
    check(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
    check(switch_tolerance=switch_tolerance)
    adam = optax.scale_by_adam(b1, b2, eps)

    @following_params
    def init_fn(params: optax.Params) -> SwatsState:
        check_params(params)
        rate_dtype = real_dtype(at_least_float32(*jax.tree.leaves(params)))
        return SwatsState(
            count=jnp.zeros((), jnp.int32),
            switch_step=zero_for(params, jnp.int32),
            sgd_rate=zero_for(params, rate_dtype),
            adam_rate=zero_for(params, rate_dtype),
            average=zero_for(params, rate_dtype),
            adam_state=adam.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: SwatsState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SwatsState]:
        del params, extra_args
        check_state(state, SwatsState)
        grads = fitting_gradients(updates, state.adam_state.mu)
        α = learning_rate(state.count) if callable(learning_rate) else learning_rate
        updates, new_state = jax.lax.cond(
            state.in_sgd_phase,
            partial(_sgd_step, b1=b1),
            partial(_adam_step, adam=adam, b2=b2, tolerance=switch_tolerance),
            *(grads, state._replace(count=optax.safe_increment(state.count))),
            jnp.asarray(α, state.average.dtype),
        )
        return updates, new_state

    swats = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    decays = decay(weight_decay, mask, step=product(-1, learning_rate))
    return stable_dtypes(optax.chain(swats, *decays)) if decays else swats


def _adam_step(
    grads: optax.Updates,
    state: SwatsState,
    α: jax.Array,
    *,
    adam: optax.GradientTransformation,
    b2: jax.typing.ArrayLike,
    tolerance: jax.typing.ArrayLike,
) -> tuple[optax.Updates, SwatsState]:
    t, β2 = state.count, jnp.asarray(b2, α.dtype)
    directions, adam_state = adam.update(grads, state.adam_state)
    adam_state = keep_state_dtypes(adam_state, state.adam_state)
    steps = _scaled_like(-α, directions, grads)
    descent = -_dot(steps, grads, α.dtype)
    # p·g = 0 where all gradients or the learning rate are zero: γ is 0 then, which is
    # no rate, like one that is not finite.
    γ = _dot(steps, steps, α.dtype) / jnp.where(descent == 0, jnp.inf, descent)
    found = (γ != 0) & jnp.isfinite(γ)
    λ = jnp.where(found, β2 * state.average + (1 - β2) * γ, state.average)
    Λ = λ / bias_correction(b2, t, α.dtype)
    switches = found & (t > 1) & (Λ > 0) & (jnp.abs(Λ - γ) < tolerance)
    mu = jax.tree.map(lambda m: jnp.where(switches, 0, m), adam_state.mu)
    return steps, SwatsState(
        count=t,
        switch_step=jnp.where(switches, t, 0),
        sgd_rate=jnp.where(switches, Λ, 0),
        adam_rate=jnp.where(switches, α, 0),
        average=λ,
        adam_state=adam_state._replace(mu=mu),
    )


def _sgd_step(
    grads: optax.Updates, state: SwatsState, α: jax.Array, *, b1: jax.typing.ArrayLike
) -> tuple[optax.Updates, SwatsState]:
    adam_state = state.adam_state
    velocity, trace = optax.trace(b1).update(grads, optax.TraceState(adam_state.mu))
    # Under vmap this is computed in Adam's phase too, where the rate is still 0.
    adam_rate = jnp.where(state.in_sgd_phase, state.adam_rate, 1)
    rate = (1 - jnp.asarray(b1, α.dtype)) * state.sgd_rate * (α / adam_rate)
    mu = keep_state_dtypes(trace.trace, adam_state.mu)
    return _scaled_like(-rate, velocity, grads), state._replace(
        adam_state=adam_state._replace(mu=mu)
    )


def _scaled_like(factor: jax.Array, tree: Any, grads: Any) -> Any:
    """`factor` times `tree`, in the dtypes of `grads`."""
    return jax.tree.map(
        lambda x, grad: (factor * x.astype(at_least_float32(x))).astype(grad.dtype),
        tree,
        grads,
    )


def _dot(a: Any, b: Any, dtype: Any) -> jax.Array:
    """The real part of a·b over all leaves, summed in `dtype`."""

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = at_least_float32(x, y)
        return jnp.sum(jnp.real(jnp.conj(x.astype(wide)) * y.astype(wide)))

    products = jax.tree.leaves(jax.tree.map(product, a, b))
    return jnp.asarray(sum(products, 0.0), dtype)
