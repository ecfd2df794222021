"""Local gains: a script worked out by hand, the equations, limits, mutants."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import gradient_trajectory, initial_params
from test_trajectories import assert_all_steps_close, per_array, run

import diffgrad_optax._frame as frame_module
import diffgrad_optax._gains as gains_module
from diffgrad_optax import GainsState, scale_by_gains

settings.register_profile(
    'deterministic', derandomize=True, deadline=None, database=None, max_examples=20
)
settings.load_profile('deterministic')

NAN, INF = float('nan'), float('inf')


def gradients():
    """The trajectory with zeros among its gradients: every third of one row."""
    grads = gradient_trajectory()
    for step_grads in grads[::3]:
        step_grads['dense']['kernel'][0] = 0.0
    return grads


@functools.cache
def compiled(**arguments):
    optimizer = scale_by_gains(**arguments)
    return optimizer.init, jax.jit(optimizer.update)


def gains_of(grads, **arguments):
    """The gain of one parameter after each of `grads`."""
    init, update = compiled(**arguments)
    state = init(jnp.zeros(()))
    gains = []
    for grad in grads:
        _, state = update(jnp.asarray(grad), state)
        gains.append(float(state.gains))
    return gains


# The script. With β = ½ every gain is a number of few bits, and all are exact.

SCRIPT = [
    # gradient, gain, the sign that is kept
    (+3.0, 1.0, +1),  # the first says nothing
    (+0.5, 1.5, +1),
    (+2.0, 2.0, +1),
    (-1.0, 1.0, -1),
    (-4.0, 1.5, -1),
    (+1.0, 0.75, +1),
    (+0.0, 0.75, 0),  # no sign: the gain stays
    (+8.0, 0.75, +1),  # and nothing to compare with
    (+1.0, 1.25, +1),
    (-0.0, 1.25, 0),
    (-0.0, 1.25, 0),
    (-2.0, 1.25, -1),
    (+0.5, 0.625, +1),
    (-0.5, 0.3125, -1),
    (-1.0, 0.8125, -1),
]


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize(
    ('dtype', 'gain_dtype'),
    [
        ('float16', 'float32'),
        ('bfloat16', 'float32'),
        ('float32', 'float32'),
        ('float64', 'float64'),
    ],
)
def test_scripted_signs_give_the_gains_worked_out_by_hand(dtype, gain_dtype, jit):
    optimizer = scale_by_gains(beta=0.5)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    state = optimizer.init(jnp.zeros(2, dtype))
    chex.assert_trees_all_equal(state.gains, jnp.ones(2, gain_dtype))
    chex.assert_trees_all_equal(state.prev_sign, jnp.zeros(2, 'int8'))
    for g, gain, sign in SCRIPT:
        # The second element has every sign turned round, and the same gains.
        grads = jnp.array([g, -g], dtype)
        updates, state = update(grads, state)
        chex.assert_trees_all_equal(state.gains, jnp.full(2, gain, gain_dtype))
        chex.assert_trees_all_equal(state.prev_sign, jnp.array([sign, -sign], 'int8'))
        # Four bits of gain and one of gradient: no dtype rounds.
        chex.assert_trees_all_equal(updates, jnp.array([gain * g, -gain * g], dtype))
        chex.assert_trees_all_equal_dtypes((updates, state.gains), (grads, state.gains))


def test_default_gains_grow_by_a_twentieth_and_shrink_by_a_twentieth():
    # 1, 1.05, 1.10, 1.10 · 0.95
    np.testing.assert_allclose(
        gains_of([1.0, 1.0, 1.0, -1.0]), [1.0, 1.05, 1.1, 1.045], rtol=1e-14
    )


def test_gain_stops_at_its_bounds_and_comes_back_from_them():
    same, turning = 6 * [1.0], [-1.0, 1.0, -1.0, 1.0, -1.0]
    gains = gains_of([*same, *turning, -1.0], beta=0.5, min_gain=0.25, max_gain=2.25)
    assert gains == [
        *(1.0, 1.5, 2.0, 2.25, 2.25, 2.25),
        # From the bound, not from where it would be without one.
        *(1.125, 0.5625, 0.28125, 0.25, 0.25),
        0.75,
    ]


def test_default_bounds_are_a_hundredth_and_a_hundred():
    growing = gains_of(300 * [1.0], beta=0.5)
    assert max(growing) == growing[-1] == 100.0
    shrinking = gains_of([(-1.0) ** t for t in range(20)], beta=0.5)
    assert min(shrinking) == shrinking[-1] == 0.01


def test_bounds_of_one_leave_every_gradient_as_it_is():
    grads, params = gradients(), initial_params()
    optimizer = scale_by_gains(0.5, min_gain=1.0, max_gain=1.0)
    chex.assert_trees_all_equal(list(run(optimizer, grads, params)), grads)


def test_beta_zero_leaves_every_gradient_as_it_is():
    grads, params = gradients(), initial_params()
    chex.assert_trees_all_equal(list(run(scale_by_gains(0.0), grads, params)), grads)


def test_nan_leaves_the_gain_and_is_forgotten():
    grads = [1.0, 1.0, NAN, 1.0, 1.0, NAN, NAN, -1.0]
    gains = gains_of(grads, beta=0.5)
    assert gains == [1.0, 1.5, 1.5, 1.5, 2.0, 2.0, 2.0, 2.0]
    optimizer = scale_by_gains()
    updates, state = optimizer.update(jnp.array(NAN), optimizer.init(jnp.zeros(())))
    assert jnp.isnan(updates)
    assert state.prev_sign == 0


def test_infinity_has_a_sign():
    assert gains_of([INF, INF, -INF, 1.0], beta=0.5) == [1.0, 1.5, 0.75, 0.375]


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_gradients_whose_product_is_below_any_number_have_signs(dtype):
    tiny = float(jnp.finfo(dtype).tiny)
    gains = []
    optimizer = scale_by_gains(0.5)
    state = optimizer.init(jnp.zeros((), dtype))
    for g in (tiny, tiny, -tiny):
        _, state = optimizer.update(jnp.asarray(g, dtype), state)
        gains.append(float(state.gains))
    assert gains == [1.0, 1.5, 0.75]


def test_large_gains_of_bfloat16_parameters_still_grow():
    params = jnp.ones(3, 'bfloat16')
    optimizer = scale_by_gains()
    _, state = optimizer.update(params, optimizer.init(params))
    state = state._replace(gains=jnp.full_like(state.gains, 16.0))
    # In bfloat16, 16 + 0.05 is 16.
    assert jnp.bfloat16(16.0) + jnp.bfloat16(0.05) == 16.0
    _, state = optimizer.update(params, state)
    np.testing.assert_allclose(state.gains, np.full(3, 16.05), rtol=1e-6)


def test_product_with_a_16_bit_gradient_is_rounded_once():
    grads = jnp.asarray(np.random.default_rng(0).normal(size=64), 'bfloat16')
    optimizer = scale_by_gains(0.07)
    updates, state = optimizer.update(grads, optimizer.init(grads))
    updates, state = optimizer.update(grads, state)
    exact = 1.07 * np.asarray(grads, np.float64)
    # Half a unit in the last place, and a little for the float32 product.
    np.testing.assert_allclose(
        np.asarray(updates, np.float64), exact, rtol=0.501 * jnp.finfo('bfloat16').eps
    )


def test_hyperparameters_may_be_traced():
    grads, params = gradients(), initial_params()
    arguments = {'beta': 0.3, 'min_gain': 0.5, 'max_gain': 2.0}

    @jax.jit
    def first_five(arguments):
        return list(run(scale_by_gains(**arguments), grads[:5], params))

    expected = list(run(scale_by_gains(**arguments), grads[:5], params))
    chex.assert_trees_all_close(first_five(arguments), expected, rtol=1e-14)


@pytest.mark.parametrize('grad', [0.0, NAN])
def test_a_bound_that_moves_holds_where_the_sign_says_nothing(grad):
    for bounds in ({'max_gain': 1.5}, {'min_gain': 0.25, 'max_gain': 1.0}):
        optimizer = scale_by_gains(0.5, **bounds)
        state = GainsState(jnp.array([4.0, 0.125]), jnp.ones(2, 'int8'))
        _, state = optimizer.update(jnp.array([grad, grad]), state)
        low, high = bounds.get('min_gain', 0.01), bounds['max_gain']
        np.testing.assert_array_equal(state.gains, [high, max(low, 0.125)])


@given(st.lists(st.sampled_from([-2.0, -0.1, 0.0, 0.1, NAN]), min_size=6, max_size=6))
def test_gain_stays_within_its_bounds_and_moves_as_the_signs_say(grads):
    gains = gains_of(grads, beta=0.3, min_gain=0.6, max_gain=1.5)
    assert all(0.6 <= gain <= 1.5 for gain in gains)
    for before, after, g, q in zip(
        [1.0, *gains], gains, grads, [NAN, *grads], strict=False
    ):
        if g * q > 0.0:
            assert after > before or after == before == 1.5
        elif g * q < 0.0:
            assert after < before or after == before == 0.6
        else:
            assert after == before


@given(st.lists(st.floats(-10.0, 10.0, width=32), min_size=6, max_size=6))
def test_gain_sees_nothing_of_a_gradient_but_its_sign(grads):
    signs = [float(np.sign(g)) for g in grads]
    assert gains_of(grads) == gains_of(signs)


# Every step of the trajectory.

HYPERPARAMETERS = {
    'defaults': {},
    'meeting_its_bounds': {'beta': 0.4, 'min_gain': 0.3, 'max_gain': 2.5},
}


def assert_follows_reference(make_optimizer=scale_by_gains, *, jit=False, **arguments):
    """Compares `make_optimizer(**arguments)` with the equations of local gains."""
    grads, params = gradients(), initial_params()
    gains = per_array(lambda array: references.gains(array, **arguments), grads)
    expected = [
        jax.tree.map(np.multiply, g, γ) for g, γ in zip(grads, gains, strict=True)
    ]
    actual = run(make_optimizer(**arguments), grads, params, jit=jit)
    assert_all_steps_close(actual, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('name', HYPERPARAMETERS)
def test_every_step_equals_the_equations(name, jit):
    assert_follows_reference(jit=jit, **HYPERPARAMETERS[name])


def test_trajectory_meets_both_bounds_and_keeps_away_from_them():
    # Or the comparison would not see them.
    gains = per_array(
        lambda array: references.gains(array, **HYPERPARAMETERS['meeting_its_bounds']),
        gradients(),
    )
    values = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gains)])
    for bound in (0.3, 2.5):
        assert 10 <= np.sum(values == bound) < values.size / 2


def test_every_step_before_momentum_is_momentum_of_the_scaled_gradients():
    grads, params = gradients(), initial_params()
    sgd = optax.sgd(0.1, momentum=0.9)
    gains = per_array(references.gains, grads)
    scaled = [
        jax.tree.map(np.multiply, g, γ) for g, γ in zip(grads, gains, strict=True)
    ]
    expected = list(run(sgd, scaled, params))
    actual = run(optax.chain(scale_by_gains(), sgd), grads, params)
    assert_all_steps_close(actual, expected)


# Mutants.


def by_rule(rule):
    """Local gains by `rule(γ, g, q, β)`, with whole gradients in the state."""

    def make(beta=0.05, min_gain=0.01, max_gain=100.0):
        def init(params):
            return jax.tree.map(jnp.ones_like, params), jax.tree.map(
                jnp.zeros_like, params
            )

        def update(grads, state, params=None):
            del params

            def next_gain(γ, g, q):
                return jnp.clip(rule(γ, g, q, beta), min_gain, max_gain)

            gains, prev_grads = state
            gains = jax.tree.map(next_gain, gains, grads, prev_grads)
            updates = jax.tree.map(lambda γ, g: jnp.asarray(γ * g), gains, grads)
            return updates, (gains, jax.tree.map(jnp.asarray, grads))

        return optax.GradientTransformation(init, update)

    return make


def paper(γ, g, q, β):
    return jnp.where(g * q > 0, γ + β, jnp.where(g * q < 0, γ * (1 - β), γ))


RULES = {
    'no_gain': lambda γ, g, q, β: γ,
    'growth_by_a_factor': lambda γ, g, q, β: jnp.where(
        g * q > 0, γ * (1 + β), jnp.where(g * q < 0, γ * (1 - β), γ)
    ),
    'shrinkage_by_a_difference': lambda γ, g, q, β: jnp.where(
        g * q > 0, γ + β, jnp.where(g * q < 0, γ - β, γ)
    ),
    'signs_turned_round': lambda γ, g, q, β: paper(γ, g, -q, β),
    'shrinkage_missing': lambda γ, g, q, β: jnp.where(g * q > 0, γ + β, γ),
    'growth_missing': lambda γ, g, q, β: jnp.where(g * q < 0, γ * (1 - β), γ),
    'shrinkage_at_zero': lambda γ, g, q, β: jnp.where(g * q > 0, γ + β, γ * (1 - β)),
    'growth_at_zero': lambda γ, g, q, β: jnp.where(g * q >= 0, γ + β, γ * (1 - β)),
    'first_step_grows': lambda γ, g, q, β: paper(
        γ, g, jnp.where((q == 0) & (γ == 1), g, q), β
    ),
    'gradient_compared_with_itself': lambda γ, g, q, β: paper(γ, g, g, β),
    'sign_of_the_product_with_the_gain': lambda γ, g, q, β: paper(γ, g, γ * g, β),
    'decision_for_the_whole_array': lambda γ, g, q, β: paper(
        γ, jnp.sum(g * q), jnp.ones_like(g), β
    ),
}


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('hyperparameters', HYPERPARAMETERS)
def test_the_comparison_fails_for_another_rule(name, hyperparameters):
    make = by_rule(RULES[name])
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(make, **HYPERPARAMETERS[hyperparameters])


@pytest.mark.parametrize('hyperparameters', HYPERPARAMETERS)
def test_the_comparison_passes_for_the_same_rule(hyperparameters):
    # Storing gradients for signs is not what the rules above fail for.
    assert_follows_reference(by_rule(paper), **HYPERPARAMETERS[hyperparameters])


def clipped_on_one_side(low):
    def clip(gain, min_gain, max_gain):
        return jnp.maximum(gain, min_gain) if low else jnp.minimum(gain, max_gain)

    return clip


def keeps_the_last_sign_that_was_not_zero(sign, prev_sign, *_):
    return jnp.where(sign == 0, prev_sign, sign)


MUTANTS = {
    'clip_missing': (jnp, 'clip', lambda gain, low, high: gain),
    'clip_above_missing': (jnp, 'clip', clipped_on_one_side(low=True)),
    'clip_below_missing': (jnp, 'clip', clipped_on_one_side(low=False)),
    'sign_never_updated': (frame_module, 'write_after', lambda s, q, *_: q),
    'sign_of_zero_is_the_one_before': (
        frame_module,
        'write_after',
        keeps_the_last_sign_that_was_not_zero,
    ),
    'zero_is_positive': (
        gains_module,
        '_sign',
        lambda g: jnp.where(g < 0, -1, 1).astype(jnp.int8),
    ),
    'sign_lost': (gains_module, '_sign', lambda g: (g != 0).astype(jnp.int8)),
}


@pytest.mark.parametrize('name', MUTANTS)
def test_the_comparison_fails_for_a_mutant(name, monkeypatch):
    module, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(module, attribute, replacement)
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(**HYPERPARAMETERS['meeting_its_bounds'])
