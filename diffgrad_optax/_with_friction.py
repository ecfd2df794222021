"""Friction around any optax transformation, and a look at its coefficients."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import at_least_float32
from diffgrad_optax._fit import as_arrays, check_same_array
from diffgrad_optax._frame import Stepped, framed
from diffgrad_optax._params import zeros
from diffgrad_optax._paths import arrays_beside
from diffgrad_optax._quantize import dequantize_state
from diffgrad_optax.friction import Friction, resolve


class FrictionState(NamedTuple):
    """State of :func:`with_friction`; checkpoints hold these field names."""

    prev_grad: optax.Updates  #: g_{t-1}, shaped like params, dtype prev_grad_dtype.
    inner_state: optax.OptState  #: the wrapped transformation's own.


def with_friction(
    inner: optax.GradientTransformation,
    friction: str | Friction = 'dfc',
    *,
    prev_grad_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates of `inner` by a friction coefficient.

    .. math::

        u'_t = \xi(g_t, g_{t-1}) \odot u_t, \qquad g_0 = 0

    where :math:`u_t` is the update (`inner`) and :math:`g_t` is the gradient that
    enters this transformation, after whatever stands before it in a chain. The
    default coefficient is diffGrad's, :math:`\xi = \sigma(|g_{t-1} - g_t|)`: an
    element whose gradient stays the same moves at half of its step, one whose
    gradient changes much at nearly all of it.

    Use it to try gradient differences on an optimizer that you already use;
    :func:`diffgrad` is this around Adam. Where gradients are small (1e-3 and below, as
    often in trained networks) `dfc` is ½ to three digits, and the result is `inner` at
    half its learning rate: compare with that.

    Memory: one array per parameter. Time: one more elementwise pass. A gradient that is
    not finite touches this step and the next: `optax.apply_if_finite` keeps it out.
    Deviation: the paper defines friction for Adam only.

    Args:
      inner: any optax transformation. Everything that it does is scaled: put
        decoupled weight decay after this transformation, not into `inner`.
      friction: as :func:`diffgrad`.
      prev_grad_dtype: as :func:`diffgrad`.

    Returns:
      A transformation that forwards extra arguments to `inner`, with state
      :class:`FrictionState`. Updates have the gradients' dtype. Floating arrays of
      the state keep the dtypes that `init` gave them.

    Raises:
      TypeError: if `inner` is no transformation, (by `init`) a parameter is an integer
        or is complex and its stored gradient is not, or (by `update`) `friction`
        returns no real numbers that broadcast to the gradient, or a gradient, update
        or state is of a wrong type.
      ValueError: if `friction` is an unknown name, or (by `update`) the gradients do
        not fit the state.

    Example: Lion, whose steps are all of one size, with friction. The second
    gradient repeats in the first element and turns round in the second.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import with_friction
    >>> optimizer = with_friction(optax.scale_by_lion())
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for grads in (jnp.array([2.0, 2.0]), jnp.array([2.0, -2.0])):
    ...     updates, state = optimizer.update(grads, state)
    ...     print(updates)
    [0.8808 0.8808]
    [ 0.5   -0.982]

    References:
      Dubey et al., `diffGrad: An Optimization Method for Convolutional Neural
      Networks <https://arxiv.org/abs/1909.11015>`_, IEEE TNNLS 2020, Eqs. 17-20.
    """
    coefficient = resolve(friction)
    check(prev_grad_dtype=prev_grad_dtype, inner=inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> FrictionState:
        prev_grad = zeros(params, prev_grad_dtype=prev_grad_dtype)
        return FrictionState(prev_grad, inner.init(params))

    def step(
        grads: optax.Updates,
        state: FrictionState,
        inner_updates: optax.Updates,
        **_: Any,
    ) -> Stepped:
        ξ = jax.tree.map(
            partial(_coefficient_array, coefficient), grads, state.prev_grad
        )
        updates = jax.tree.map(_product, ξ, inner_updates)
        read = ξ, arrays_beside(state.inner_state, grads)
        return updates, FrictionState(grads, state.inner_state), read

    return framed(FrictionState, init, step, inner=inner)


def friction_coefficients(
    grads: optax.Updates,
    opt_state: optax.OptState,
    friction: str | Friction,
) -> optax.Updates:
    r"""The coefficients :math:`\xi_t` that the next update will apply.

    To log how far from ½ they really are; the state does not say by which `friction`
    it was made, so give that:

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import diffgrad, friction_coefficients
    >>> optimizer = optax.chain(optax.clip_by_global_norm(10.0), diffgrad(1e-3))
    >>> params = {'w': jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> grads = {'w': jnp.array([0.001, 3.0])}
    >>> print(friction_coefficients(grads, state, 'dfc')['w'])
    [0.5003 0.9526]
    >>> updates, state = optimizer.update(grads, state, params)
    >>> print(friction_coefficients(grads, state, 'dfc')['w'])
    [0.5 0.5]

    Args:
      grads: the gradients that will enter the friction transformation: clipped
        first if a clipping stands before it in the chain.
      opt_state: any state with a :class:`FrictionState` somewhere in it, behind
        `optax.chain`, `masked`, `partition`, `inject_hyperparams`, `MultiSteps`,
        :func:`quantize_state` and the like (but not `optax.flatten`, which leaves no
        leaf of the parameters). Several are joined when they share no parameter.
      friction: the coefficient that the transformation was made with: `'dfc'` where
        none was given.

    Returns:
      A tree like `grads`, float32 or wider. Where no friction acts (masked out)
      the leaf is `optax.MaskedNode()`, so that averages over leaves skip it.

    Raises:
      ValueError: if `opt_state` holds no :class:`FrictionState`, two that act on
        the same parameter, or none that shares a leaf with `grads`; if a shared
        leaf differs in shape; if `friction` is an unknown name.
      TypeError: if `friction` is neither a name nor callable, or a gradient neither
        array nor number.
    """
    coefficient = resolve(friction)
    prev_grads: dict[Any, jax.Array] = {}
    states = list(_friction_states(dequantize_state(opt_state)))
    if not states:
        raise ValueError(
            'opt_state holds no FrictionState: it must come from diffgrad, diffgradw, '
            'diffrgrad, scale_by_diffgrad or with_friction'
        )
    for state in states:
        for path, leaf in jax.tree.leaves_with_path(state.prev_grad):
            if path in prev_grads:
                raise ValueError(
                    f'opt_state holds two frictions for {jax.tree_util.keystr(path)}: '
                    'pass the part of it that belongs to one'
                )
            prev_grads[path] = leaf

    def at(path: Any, grad: Any) -> Any:
        if path not in prev_grads:
            return optax.MaskedNode()
        check_same_array(path, grad, prev_grads[path])
        return _coefficient_array(coefficient, grad, prev_grads[path])

    coefficients = jax.tree.map_with_path(at, as_arrays(grads))
    if jax.tree.leaves(grads) and not jax.tree.leaves(coefficients):
        raise ValueError(
            'no leaf of grads is a leaf of a FrictionState in opt_state: '
            'both must belong to the same parameters'
        )
    return coefficients


def _coefficient_array(
    coefficient: Friction, grad: jax.Array, prev_grad: jax.Array
) -> jax.Array:
    """The coefficient, in float32 at least, broadcast to the shape of `grad`."""
    dtype = at_least_float32(grad, prev_grad)
    result = coefficient(grad.astype(dtype), prev_grad.astype(dtype))
    try:
        ξ = jnp.broadcast_to(jnp.asarray(result), grad.shape)
    except (OverflowError, TypeError, ValueError):
        ξ = None
    if ξ is None or jnp.iscomplexobj(ξ) or jnp.issubdtype(ξ.dtype, jax.dtypes.extended):
        shown = repr(result)
        if hasattr(result, 'dtype'):
            shown = f'{result.dtype}{list(result.shape)}'
        raise TypeError(
            'friction must return real numbers that broadcast to the shape of the '
            f'gradient {list(grad.shape)}, got {shown}'
        )
    return ξ.astype(at_least_float32(ξ))


def _product(ξ: jax.Array, update: jax.Array) -> jax.Array:
    wide = at_least_float32(ξ, update)
    return ξ.astype(wide) * update.astype(wide)


def _friction_states(opt_state: optax.OptState) -> Iterator[FrictionState]:
    """Every FrictionState in `opt_state`, also one inside another's inner state."""
    for node in jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, FrictionState)
    ):
        if isinstance(node, FrictionState):
            yield node
            yield from _friction_states(node.inner_state)
