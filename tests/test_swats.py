"""SWATS: when it switches and to what, by hand, by equations and by optax's parts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from jax.experimental import checkify
from problems import STEPS, gradient_trajectory, initial_params
from test_trajectories import assert_all_steps_close, run

from diffgrad_optax import swats


def stepwise(optimizer, grads, *, jit=True):
    """The updates and the state of every step."""
    update = jax.jit(optimizer.update) if jit else optimizer.update
    state = optimizer.init(grads[0])
    for g in grads:
        updates, state = update(g, state)
        yield updates, state


# By hand. Without momentum and with β2 = ½, one parameter and the gradients 1, 11
# and 5, the corrected second moments are 1, (1 + 2·121)/3 = 81 and
# (1 + 2·121 + 4·25)/7 = 49: the steps are -α times 1, 11/9 and 5/7, and the rates
# γ = α, α/9 and α/7. Their average λ/(1 - β2^t) is α, 11α/27 and 113α/441, off γ
# by 8α/27 = 0.296α at t = 2 and by 50α/441 = 0.113α at t = 3.
BY_HAND = [jnp.array([g]) for g in (1.0, 11.0, 5.0, 2.0, -4.0)]


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_switch_and_rate_are_those_computed_by_hand(jit):
    α = 0.1
    optimizer = swats(α, b1=0.0, b2=0.5, eps=0.0, switch_tolerance=0.2 * α)
    expected = [
        (-α, 0, 0.0),
        (-α * 11 / 9, 0, 0.0),
        (-α * 5 / 7, 3, α * 113 / 441),  # still Adam's step
        (-α * 113 / 441 * 2.0, 3, α * 113 / 441),
        (-α * 113 / 441 * -4.0, 3, α * 113 / 441),
    ]
    steps = stepwise(optimizer, BY_HAND, jit=jit)
    for (updates, state), (step, switch_step, rate) in zip(
        steps, expected, strict=True
    ):
        np.testing.assert_allclose(updates, [step], rtol=1e-12)
        np.testing.assert_allclose(state.sgd_rate, rate, rtol=1e-12)
        assert state.switch_step == switch_step
        assert state.in_sgd_phase == (switch_step > 0)


@pytest.mark.parametrize(
    ('tolerance', 'switch_step'), [(0.29, 3), (0.30, 2), (0.112, 0), (0.114, 3)]
)
def test_tolerance_decides_the_step_of_the_switch(tolerance, switch_step):
    optimizer = swats(1.0, b1=0.0, b2=0.5, eps=0.0, switch_tolerance=tolerance)
    *_, (_, state) = stepwise(optimizer, BY_HAND[:3])
    assert state.switch_step == switch_step


def test_the_first_step_never_switches():
    # Its average is the rate itself.
    optimizer = swats(0.1, switch_tolerance=1e6)
    (_, first), (_, second) = stepwise(optimizer, BY_HAND[:2])
    assert not first.in_sgd_phase
    assert second.switch_step == 2


# By optax's parts: gradients that switch in the middle.

# Under a constant learning rate of 0.01 these gradients meet it at t = 24.
TOLERANCE = 3e-5
GRADS = [
    jax.tree.map(lambda g: jnp.asarray(np.tanh(g)) + 2.0, tree)
    for tree in gradient_trajectory()
]


def switch_of(steps):
    return int(steps[-1][1].switch_step)


def test_it_is_adam_before_the_switch_and_sgd_after():
    α, b1 = 0.01, 0.8
    steps = list(stepwise(swats(α, b1=b1, switch_tolerance=TOLERANCE), GRADS))
    switch, Λ = switch_of(steps), float(steps[-1][1].sgd_rate)
    assert 5 < switch < STEPS - 5
    before, after = GRADS[:switch], GRADS[switch:]
    adam = stepwise(optax.adam(α, b1=b1, eps=1e-9), before)
    sgd = stepwise(optax.sgd((1 - b1) * Λ, momentum=b1), after)
    expected = [updates for updates, _ in adam] + [updates for updates, _ in sgd]
    actual = (updates for updates, _ in steps)
    assert_all_steps_close(actual, expected, rtol=1e-12, atol=0.0)


def falling_after_the_switch(count):
    return jnp.where(count < 24, 0.01, 0.24 / (count + 1.0))


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize(
    'learning_rate', [0.01, falling_after_the_switch], ids=['constant', 'schedule']
)
def test_every_step_equals_the_equations(learning_rate, jit):
    optimizer = swats(learning_rate, switch_tolerance=TOLERANCE)
    assert_follows_reference(optimizer, learning_rate, jit=jit)


def assert_follows_reference(optimizer, learning_rate, *, jit=True):
    schedule = learning_rate if callable(learning_rate) else lambda _: learning_rate
    treedef = jax.tree.structure(GRADS[0])
    expected, switch_step = references.swats(
        [[np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in GRADS],
        [float(schedule(t)) for t in range(STEPS)],
        switch_tolerance=TOLERANCE,
    )
    assert switch_step == 24
    expected = [treedef.unflatten(leaves) for leaves in expected]
    actual = run(optimizer, GRADS, initial_params(), jit=jit)
    assert_all_steps_close(actual, expected)


@pytest.mark.parametrize(
    'learning_rate', [0.01, falling_after_the_switch], ids=['constant', 'schedule']
)
@pytest.mark.parametrize('weight_decay', [0.3, lambda count: 0.3 / (1 + count)])
def test_decay_is_added_in_both_phases_and_no_rate_sees_it(learning_rate, weight_decay):
    params = initial_params()
    parts = {'weight_decay': weight_decay, 'mask': {'dense': True, 'gain': False}}
    plain = swats(learning_rate, switch_tolerance=TOLERANCE)
    decaying = swats(learning_rate, switch_tolerance=TOLERANCE, **parts)
    state = decaying.init(params)
    step = jax.jit(decaying.update)
    for t, (updates, _) in enumerate(stepwise(plain, GRADS)):
        decayed, state = step(GRADS[t], state, params)
        α, λ = (x(t) if callable(x) else x for x in (learning_rate, weight_decay))
        shrinking = optax.tree.add_scale(updates['dense'], -α * λ, params['dense'])
        expected = updates | {'dense': shrinking}
        chex.assert_trees_all_close(decayed, expected, rtol=1e-12)
    assert state[0].switch_step == 24


def test_gradients_without_a_rate_leave_the_average_alone():
    grads = [jnp.array([1.0, 1.0])] + [jnp.zeros(2)] * 3
    optimizer = swats(0.1, switch_tolerance=0.0)
    (_, first), *_, (_, last) = stepwise(optimizer, grads)
    assert first.average > 0
    assert last.average == first.average
    assert not last.in_sgd_phase


def test_steps_uphill_do_not_switch():
    # One large gradient, then small ones the other way: momentum goes uphill, and
    # the rate that this comes to is negative.
    grads = [jnp.array([1.0])] + [jnp.array([-1e-3])] * 2
    optimizer = swats(0.1, b1=0.9, b2=0.0, switch_tolerance=1e9)
    # With b2 = 0 the average is the last rate, within any tolerance.
    *_, (_, last) = stepwise(optimizer, grads)
    assert last.average < 0
    assert not last.in_sgd_phase


def test_the_rate_is_one_number_for_the_whole_tree():
    # p = -α for both, so that p·p / -p·g = 2α / (1 + 3).
    grads = [{'a': jnp.array([1.0]), 'b': jnp.array([3.0])}] * 2
    *_, (_, state) = stepwise(swats(0.1, eps=0.0, switch_tolerance=1e-6), grads)
    np.testing.assert_allclose(state.sgd_rate, 0.05, rtol=1e-12)


def test_a_nan_gradient_does_not_reach_the_rate():
    grads = [jnp.array([1.0]), jnp.array([jnp.nan])]
    *_, (_, state) = stepwise(swats(0.1, switch_tolerance=1e9), grads)
    assert state.average > 0
    assert not state.in_sgd_phase


def test_an_injected_learning_rate_still_acts_after_the_switch():
    optimizer = optax.inject_hyperparams(swats)(0.1, switch_tolerance=1e-6)
    grads = jnp.array([4.0])
    state = optimizer.init(grads)
    for _ in range(2):
        _, state = optimizer.update(grads, state, grads)
    assert state.inner_state.in_sgd_phase
    state.hyperparams['learning_rate'] /= 10
    updates, _ = optimizer.update(grads, state, grads)
    # Λ = α/g, and (1 - β1) of it for SGD's first step.
    np.testing.assert_allclose(updates, [-0.1 * 0.1 / 10], rtol=1e-6)


def test_the_rate_is_found_behind_a_chain():
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), swats(0.1, switch_tolerance=1e-6)
    )
    *_, (_, state) = stepwise(optimizer, [jnp.array([4.0])] * 2)
    np.testing.assert_allclose(optax.tree.get(state, 'sgd_rate'), 0.025, rtol=1e-6)


def test_state_is_adams_and_a_few_numbers():
    params = initial_params()
    ours = sum(leaf.size for leaf in jax.tree.leaves(swats(0.1).init(params)))
    adams = sum(leaf.size for leaf in jax.tree.leaves(optax.adam(0.1).init(params)))
    assert ours == adams + 5


@pytest.mark.parametrize(
    'learning_rate, grad, switches', [(0.1, 0.0, 0), (0.0, 4.0, 0), (0.1, 4.0, 2)]
)
def test_no_rate_is_divided_by_zero(learning_rate, grad, switches):
    # Under vmap both phases are computed at every step, and one is discarded.
    optimizer = swats(learning_rate, switch_tolerance=1e-6)

    def step(state, grad):
        return optimizer.update(grad, state)[::-1]

    @jax.jit
    @functools.partial(checkify.checkify, errors=checkify.float_checks)
    @jax.vmap
    def steps(grads):
        return jax.lax.scan(step, optimizer.init(grads[0]), grads)[0]

    error, state = steps(jnp.full((1, 3), grad))
    error.throw()
    assert state.switch_step == switches


# Mutants: SWATS written again, with parts that can be replaced.


def swats_by(
    *,
    rate=lambda p_p, p_g: p_p / -p_g,
    estimate=lambda λ, γ, correction: λ / correction,
    first_switch=2,
    momentum_from=lambda mu: jax.tree.map(jnp.zeros_like, mu),
    dampening=lambda b1: 1 - b1,
    per_leaf=False,
    follows_schedule=True,
):
    def make(schedule, b1=0.9, b2=0.999, eps=1e-9):
        adam = optax.scale_by_adam(b1, b2, eps)

        def init(params):
            return 0, None, 0.0, 0.0, 0.0, adam.init(params), None

        def update(grads, state, params=None):
            t, switch, Λ, α_s, λ, adam_state, velocity = state
            α, t = schedule(t), t + 1
            if switch is not None:
                velocity = jax.tree.map(lambda v, g: b1 * v + g, velocity, grads)
                scale = dampening(b1) * Λ * (α / α_s if follows_schedule else 1.0)
                updates = jax.tree.map(lambda v: -scale * v, velocity)
                return updates, (t, switch, Λ, α_s, λ, adam_state, velocity)
            directions, adam_state = adam.update(grads, adam_state)
            p = jax.tree.map(lambda u: -α * u, directions)
            of = (lambda tree: tree['gain']) if per_leaf else (lambda tree: tree)
            γ = rate(optax.tree.vdot(of(p), of(p)), optax.tree.vdot(of(p), of(grads)))
            λ = b2 * λ + (1 - b2) * γ
            found = estimate(λ, γ, 1 - b2**t)
            if t >= first_switch and abs(found - γ) < TOLERANCE:
                switch, Λ, α_s = t, found, α
                velocity = momentum_from(adam_state.mu)
            return p, (t, switch, Λ, α_s, λ, adam_state, velocity)

        return optax.GradientTransformation(init, update)

    return make


MUTANTS = {
    'rate_turned_round': {'rate': lambda p_p, p_g: -p_g / p_p},
    'rate_of_the_norms': {'rate': lambda p_p, p_g: p_p**0.5 / abs(p_g) ** 0.5},
    'average_not_corrected': {'estimate': lambda λ, γ, correction: λ},
    'last_rate_for_the_average': {'estimate': lambda λ, γ, correction: γ},
    'first_step_switches': {'first_switch': 1},
    'momentum_of_adam_goes_on': {'momentum_from': lambda mu: mu},
    'no_dampening': {'dampening': lambda b1: 1.0},
    'rate_of_one_leaf': {'per_leaf': True},
    'schedule_stops_at_the_switch': {'follows_schedule': False},
}


@pytest.mark.parametrize('name', MUTANTS)
def test_the_comparison_fails_for_a_mutant(name):
    mutant = swats_by(**MUTANTS[name])(falling_after_the_switch)
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(mutant, falling_after_the_switch, jit=False)


def test_the_comparison_passes_for_the_same_algorithm_written_again():
    again = swats_by()(falling_after_the_switch)
    assert_follows_reference(again, falling_after_the_switch, jit=False)


def test_dtypes_of_the_rates_are_float32_or_wider():
    for dtype, expected in (
        ('bfloat16', 'float32'),
        ('float32', 'float32'),
        ('float64', 'float64'),
        ('complex128', 'float64'),
    ):
        state = swats(0.1).init(jnp.zeros(2, dtype))
        chex.assert_type([state.sgd_rate, state.average, state.adam_rate], expected)
