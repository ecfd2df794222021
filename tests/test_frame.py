"""The frame holds algorithms that are not built yet, each in a few lines.

A scalar for each array (AdaNorm), one rate for the whole tree (AdGD) and the direction
of the step before (hypergradients), against their equations in NumPy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffgrad_optax._frame import framed
from diffgrad_optax._params import zeros


class NormState(NamedTuple):
    norm: Any  # e_t, a scalar for each array
    mu: Any


def scale_by_ada_norm(b1=0.9, r=0.95):
    """The momentum of AdaNorm, which lengthens gradients that are unusually short."""

    def init(params):
        return NormState(
            norm=jax.tree.map(lambda p: jnp.zeros_like(p, shape=()), params),
            mu=zeros(params),
        )

    def step(grads, state, **_):
        sizes = jax.tree.map(lambda g: jnp.sqrt(jnp.sum(g**2)), grads)
        norm = jax.tree.map(lambda e, n: r * e + (1 - r) * n, state.norm, sizes)

        def moment(m, g, e, n):
            longer = (e > n) & (n > 0)
            return b1 * m + (1 - b1) * g * jnp.where(
                longer, e / jnp.where(longer, n, 1), 1
            )

        mu = jax.tree.map(moment, state.mu, grads, norm, sizes)
        return mu, NormState(norm, mu), ()

    return framed(NormState, init, step, kept='mu')


def ada_norm(grads, b1=0.9, r=0.95):
    e, m = {k: 0.0 for k in grads[0]}, {k: 0.0 for k in grads[0]}
    for grad in grads:
        for k, g in grad.items():
            n = np.sqrt((g**2).sum())
            e[k] = r * e[k] + (1 - r) * n
            m[k] = b1 * m[k] + (1 - b1) * g * (e[k] / n if e[k] > n else 1.0)
        yield dict(m)


class RateState(NamedTuple):
    rate: jax.Array  # λ_t
    growth: jax.Array  # θ_t
    prev_grad: Any


def adgd(first=0.1):
    """AdGD: the rate is at most half of the inverse of the curvature that was met."""

    def init(params):
        return RateState(jnp.array(first), jnp.array(0.0), zeros(params))

    def step(grads, state, **_):
        difference = optax.tree.sub(grads, state.prev_grad)
        moved = state.rate * optax.tree.norm(state.prev_grad)
        bound = moved / (2 * optax.tree.norm(difference))
        rate = jnp.minimum(jnp.sqrt(1 + state.growth) * state.rate, bound)
        rate = jnp.where(moved > 0, rate, state.rate)
        updates = optax.tree.scale(-rate, grads)
        return updates, RateState(rate, rate / state.rate, grads), (updates,)

    return framed(RateState, init, step)


def adgd_reference(grads, first=0.1):
    λ, θ, q = first, 0.0, None
    for g in grads:
        g = np.concatenate([x.ravel() for x in g.values()])
        if q is not None:
            bound = λ * np.sqrt((q**2).sum()) / (2 * np.sqrt(((g - q) ** 2).sum()))
            λ, θ = (new := min(np.sqrt(1 + θ) * λ, bound)), new / λ
        else:
            θ = 1.0
        q = g
        yield -λ * g


class HypergradientState(NamedTuple):
    rate: jax.Array  # α_t
    prev_direction: Any
    inner_state: Any


def adapt_rate(inner, rate=0.1, κ=0.01):
    """Hypergradient descent on the rate of `inner`."""

    def init(params):
        return HypergradientState(jnp.array(rate), zeros(params), inner.init(params))

    def step(grads, state, inner_updates, **_):
        α = state.rate + κ * optax.tree.vdot(grads, state.prev_direction)
        updates = optax.tree.scale(-α, inner_updates)
        new = HypergradientState(α, inner_updates, state.inner_state)
        return updates, new, (updates,)

    inner = optax.with_extra_args_support(inner)
    return framed(HypergradientState, init, step, kept='prev_direction', inner=inner)


def hypergradients(grads, rate=0.1, κ=0.01, decay=0.9):
    α, u = rate, 0.0
    for g in grads:
        g = np.concatenate([x.ravel() for x in g.values()])
        α += κ * np.sum(g * u)
        u = g + decay * u
        yield -α * u


@pytest.mark.parametrize(
    ('optimizer', 'reference'),
    [
        (scale_by_ada_norm(), ada_norm),
        (adgd(), adgd_reference),
        (adapt_rate(optax.trace(0.9)), hypergradients),
    ],
    ids=['AdaNorm', 'AdGD', 'hypergradients'],
)
@pytest.mark.parametrize('jitted', [False, True])
def test_every_step_of_a_later_member_is_its_equation(optimizer, reference, jitted):
    rng = np.random.default_rng(0)
    grads = [
        {'b': s * rng.normal(size=3), 'w': s * rng.normal(size=(2, 3))}
        for s in (1.0, 0.1, 2.0, 0.5, 0.05)
    ]
    update = jax.jit(optimizer.update) if jitted else optimizer.update
    state = optimizer.init(grads[0])
    for grad, expected in zip(grads, reference(grads), strict=True):
        updates, state = update(grad, state, grad)
        if not isinstance(expected, dict):
            updates = np.concatenate([x.ravel() for x in jax.tree.leaves(updates)])
        for actual, desired in zip(
            jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(actual, desired, rtol=1e-12)
