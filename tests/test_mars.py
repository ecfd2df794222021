"""MARS: every step by the equations and by PyTorch's, the clipping, the mutants."""

import functools
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from problems import STEPS, gradient_trajectory, initial_params
from test_trajectories import (
    assert_all_steps_close,
    assert_follows_decay_reference,
    assert_follows_reference,
    per_array,
    recorded_and_reproduced,
    run,
)

import diffgrad_optax._frame as frame_module
from diffgrad_optax import correct_by_difference, mars

settings.register_profile(
    'deterministic', derandomize=True, deadline=None, database=None, max_examples=20
)
settings.load_profile('deterministic')

RECORDED = Path(__file__).parent / 'recorded' / 'pytorch_optimizer_mars.json'
RECORDING = json.loads(RECORDED.read_text())

KERNEL_DECAYS = {'dense': {'kernel': True, 'bias': False}, 'gain': False}

CORRECTIONS = {
    'defaults': {},
    'large_norm': {'max_norm': 30.0},
    'never_clipped': {'max_norm': 1e300},
    'other': {'gamma': 0.7, 'b1': 0.6, 'max_norm': 3.0},
    'no_correction': {'gamma': 0.0},
    'no_momentum': {'b1': 0.0},
}


assert_correction_follows_reference = functools.partial(
    assert_follows_reference, oracle=references.corrected_gradients
)
assert_mars_follows_reference = functools.partial(
    assert_follows_decay_reference,
    oracle=references.mars,
    learning_rate=0.03,
    weight_decay=0.0,
)


# Every step.


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('name', CORRECTIONS)
def test_every_corrected_gradient_equals_the_equations(name, jit):
    assert_correction_follows_reference(
        correct_by_difference, jit=jit, **CORRECTIONS[name]
    )


@pytest.mark.parametrize('name', ['defaults', 'large_norm', 'other'])
def test_trajectory_has_clipped_and_unclipped_arrays(name):
    # Or the comparison would see one case only.
    arguments = CORRECTIONS[name] | {'max_norm': 1e300}
    free = per_array(
        lambda array: references.corrected_gradients(array, **arguments),
        gradient_trajectory(),
    )
    norms = np.array([np.linalg.norm(c) for c in jax.tree.leaves(free)])
    max_norm = CORRECTIONS[name].get('max_norm', 1.0)
    assert 10 <= np.sum(norms > max_norm) <= norms.size - 10


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        {'b1': 0.5, 'b2': 0.9, 'eps': 1e-3, 'gamma': 0.7},
        {'gamma': 0.0},
    ],
    ids=['defaults', 'other', 'no_correction'],
)
@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_every_step_of_mars_equals_the_equations(arguments, jit):
    assert_mars_follows_reference(mars, jit=jit, **arguments)


@pytest.mark.parametrize('mask', [None, KERNEL_DECAYS], ids=['all_decays', 'kernel'])
def test_every_step_of_mars_with_decay_equals_the_equations(mask):
    assert_mars_follows_reference(mars, weight_decay=0.3, mask=mask)


def test_every_step_of_mars_with_a_schedule_equals_the_equations():
    def schedule(count):
        return 0.1 / (1.0 + 0.25 * count)

    assert_mars_follows_reference(
        mars, learning_rate=schedule, weight_decay=0.1, jit=True
    )


def of_pytorch_optimizer(recorded, dtype):
    names = ('b1', 'b2', 'gamma', 'weight_decay')
    hyperparameters = {name: recorded[name] for name in names}
    optimizer = mars(RECORDING['learning_rate'], eps=0.0, **hyperparameters)
    return recorded_and_reproduced(
        optimizer, recorded['params'], recorded['grads'], dtype
    )


def id_of_recording(recorded):
    return f'gamma_{recorded["gamma"]}-decay_{recorded["weight_decay"]}'


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_an_independent_implementation_is_reproduced(recorded):
    theirs, ours = of_pytorch_optimizer(recorded, np.float64)
    assert_all_steps_close(ours, theirs, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_an_independent_implementation_is_reproduced_in_float32(
    recorded, float32
):
    theirs, ours = of_pytorch_optimizer(recorded, np.float32)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    # Fifty steps of 1e-2, each with the rounding of 1 - b2^t to 1e-5 of itself in
    # float32, and parameters of size 1 to 6e-8.
    assert_all_steps_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_recording_has_clipped_and_unclipped_arrays(recorded):
    for k in range(2):
        free = references.corrected_gradients(
            [np.array(grads[k]) for grads in recorded['grads']],
            recorded['gamma'],
            recorded['b1'],
            max_norm=1e300,
        )
        assert 5 <= sum(np.linalg.norm(c) > 1.0 for c in free) <= STEPS - 5


# The clipping.


def arrays(bound=100.0):
    """Arrays of one shape, whose squares are numbers."""
    return st_numpy.arrays(
        np.float64,
        (2, 3),
        elements=st.floats(-bound, bound).filter(lambda x: x == 0 or abs(x) > 1e-100),
    )


def clipped(grads, max_norm=1.0, dtype='float64'):
    """The first corrected gradient of `grads` with nothing corrected."""
    optimizer = correct_by_difference(gamma=0.0, max_norm=max_norm)
    grads = jax.tree.map(lambda g: jnp.asarray(g, dtype), grads)
    return optimizer.update(grads, optimizer.init(grads))[0]


@given(arrays())
def test_norm_is_at_most_max_norm_and_the_direction_stays(grad):
    norm = np.linalg.norm(grad)
    for max_norm in (0.5, 1.0, 20.0):
        c = np.asarray(clipped(grad, max_norm))
        if norm <= max_norm * (1.0 - 1e-14):
            np.testing.assert_array_equal(c, grad)
        elif norm > max_norm * (1.0 + 1e-14):
            np.testing.assert_allclose(np.linalg.norm(c), max_norm, rtol=1e-14)
            np.testing.assert_allclose(c, grad * (max_norm / norm), rtol=1e-14)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
def test_norm_of_narrow_gradients_is_taken_in_float32(dtype):
    # In bfloat16 a sum of ones stops at 256, in float16 it ends at 65504; the
    # norms are 64 and 512.
    for value in (1.0, 8.0):
        c = np.asarray(clipped(np.full(4096, value), dtype=dtype), np.float64)
        np.testing.assert_array_equal(c, np.full(4096, 1.0 / 64.0))


def test_each_array_is_clipped_by_its_own_norm():
    grads = {'long': np.array([30.0, 40.0]), 'short': np.array([0.3, 0.4])}
    together = clipped(grads)
    np.testing.assert_allclose(together['long'], [0.6, 0.8], rtol=1e-14)
    np.testing.assert_array_equal(together['short'], grads['short'])
    for name, grad in grads.items():
        chex.assert_trees_all_equal(together[name], clipped(grad))


def test_a_matrix_is_clipped_by_the_norm_of_all_its_elements():
    # 25 ones: the Frobenius norm is 5, that of a row √5, the spectral one 5; two
    # orthogonal rows tell the first from the last.
    np.testing.assert_allclose(clipped(np.ones((5, 5))), np.full((5, 5), 0.2))
    np.testing.assert_allclose(clipped(3.0 * np.eye(2)), np.eye(2) / np.sqrt(2.0))


@pytest.mark.parametrize('max_norm', [0.0, 1.0])
def test_zero_arrays_and_empty_ones_stay(max_norm):
    grads = {'zero': np.zeros((2, 3)), 'empty': np.zeros((0, 3)), 'gain': np.zeros(())}
    chex.assert_trees_all_equal(clipped(grads, max_norm), grads)


def test_max_norm_zero_lets_nothing_through():
    np.testing.assert_array_equal(clipped(np.ones(3), 0.0), np.zeros(3))


def test_complex_gradients_are_clipped_by_the_modulus():
    c = clipped(np.array([3.0 + 4.0j, 0.0]), dtype='complex128')
    np.testing.assert_allclose(c, [0.6 + 0.8j, 0.0], rtol=1e-14)


def test_clipping_comes_after_the_correction():
    # The gradients have norm 1, their correction in the second step 1 + 2 · 2.
    optimizer = correct_by_difference(gamma=2.0, b1=0.5, max_norm=10.0)
    state = optimizer.init(jnp.zeros(1))
    _, state = optimizer.update(jnp.array([-1.0]), state)
    updates, _ = optimizer.update(jnp.array([1.0]), state)
    np.testing.assert_allclose(updates, [5.0])


def test_stored_gradient_is_neither_corrected_nor_clipped():
    grads, params = gradient_trajectory(), initial_params()
    optimizer = correct_by_difference(max_norm=0.1)
    state = optimizer.init(params)
    for step_grads in grads[:5]:
        _, state = optimizer.update(step_grads, state)
        chex.assert_trees_all_equal(state.prev_grad, step_grads)


@given(arrays(), arrays(), st.sampled_from([0.0, 0.025, 1.0]))
def test_a_gradient_that_repeats_is_not_corrected(first, second, gamma):
    optimizer = correct_by_difference(gamma, max_norm=1e300)
    state = optimizer.init(first)
    for grad in (first, second):
        _, state = optimizer.update(grad, state)
    updates, _ = optimizer.update(second, state)
    np.testing.assert_array_equal(updates, second)


@given(arrays(), arrays())
def test_gamma_one_gives_momentum_the_whole_difference(first, second):
    # MARS's reason: (1 - β1) c = g - β1 q, and β1 m + that is β1 (m - q) + g.
    optimizer = correct_by_difference(gamma=1.0, b1=0.75, max_norm=1e300)
    _, state = optimizer.update(first, optimizer.init(first))
    updates, _ = optimizer.update(second, state)
    np.testing.assert_allclose(
        0.25 * np.asarray(updates), second - 0.75 * first, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_correction_of_16_bit_gradients_is_rounded_once(dtype):
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=64), dtype) for _ in range(2))
    optimizer = correct_by_difference(gamma=0.1, max_norm=5.0)
    _, state = optimizer.update(first, optimizer.init(first))
    updates, _ = optimizer.update(second, state)
    *_, exact = references.corrected_gradients(
        [np.asarray(g, np.float64) for g in (first, second)], gamma=0.1, max_norm=5.0
    )
    assert updates.dtype == dtype
    # Half a unit in the last place, and a little for the float32 sums, which are
    # up to three times their result where they cancel.
    np.testing.assert_allclose(
        np.asarray(updates, np.float64),
        exact,
        rtol=0.501 * jnp.finfo(dtype).eps,
        atol=1e-6,
    )


# Before other optimizers.


def test_without_correction_mars_is_adamw_of_gradients_clipped_by_array():
    grads, params = gradient_trajectory(), initial_params()
    clipped_grads = [
        jax.tree.map(lambda g: g / max(1.0, np.linalg.norm(g)), step) for step in grads
    ]
    adamw = optax.adamw(0.03, 0.95, 0.99, weight_decay=0.3)
    expected = list(run(adamw, clipped_grads, params))
    actual = run(mars(0.03, gamma=0.0, weight_decay=0.3), grads, params)
    assert_all_steps_close(actual, expected)


@pytest.mark.parametrize(
    'inner',
    [optax.lion(0.1), optax.adam(0.1), optax.sgd(0.1, momentum=0.95, nesterov=True)],
    ids=['lion', 'adam', 'sgd'],
)
def test_every_step_before_an_optimizer_is_its_step_on_the_corrected_gradients(inner):
    grads, params = gradient_trajectory(), initial_params()
    corrected = per_array(references.corrected_gradients, grads)
    expected = list(run(inner, corrected, params))
    optimizer = optax.chain(correct_by_difference(), inner)
    assert_all_steps_close(run(optimizer, grads, params), expected)


def test_every_step_before_muon_is_its_step_on_the_corrected_gradients():
    # Of a tree: `optax.contrib.muon` gives its matrices to Muon, the rest to Adam.
    grads, params = gradient_trajectory(), initial_params()
    muon = optax.contrib.muon(0.1)
    corrected = per_array(references.corrected_gradients, grads)
    # Jitted: eagerly its vmap would be compiled again at every step.
    expected = list(run(muon, corrected, params, jit=True))
    optimizer = optax.chain(correct_by_difference(), muon)
    # Newton-Schulz enlarges small singular values by up to 3.4⁵ in five steps, and
    # with them the last digits.
    actual = list(run(optimizer, grads, params, jit=True))
    assert_all_steps_close(actual, expected, rtol=1e-8, atol=1e-10)


def test_vectors_can_be_left_uncorrected_as_in_the_published_code():
    grads, params = gradient_trajectory(), initial_params()
    matrices = optax.masked(correct_by_difference(), KERNEL_DECAYS)
    corrected = [
        {**g, 'dense': {**g['dense'], 'kernel': c}}
        for g, c in zip(
            grads,
            references.corrected_gradients([g['dense']['kernel'] for g in grads]),
            strict=True,
        )
    ]
    assert_all_steps_close(run(matrices, grads, params), corrected)


# Mutants.


def by_rule(rule):
    """Corrected gradients by `rule(g, q, γ, β1, τ)`, array by array."""

    def make(gamma=0.025, b1=0.95, max_norm=1.0):
        def update(grads, prev_grads, params=None):
            del params
            grads = jax.tree.map(jnp.asarray, grads)
            updates = jax.tree.map(
                lambda g, q: rule(g, q, gamma, b1, max_norm), grads, prev_grads
            )
            return updates, grads

        return optax.GradientTransformation(optax.tree.zeros_like, update)

    return make


def short(c, τ):
    norm = jnp.sqrt(jnp.sum(c**2))
    return jnp.where(norm > τ, τ / norm, 1.0) * c


def paper(g, q, γ, b1, τ):
    return short(g + γ * b1 / (1 - b1) * (g - q), τ)


def short_by_rows(c, τ):
    axis = c.ndim - 1 if c.ndim else None
    norm = jnp.sqrt(jnp.sum(c**2, axis=axis, keepdims=True))
    return jnp.where(norm > τ, τ / norm, 1.0) * c


def short_by_the_tree(gamma=0.025, b1=0.95, max_norm=1.0):
    return optax.chain(
        correct_by_difference(gamma, b1, max_norm=1e300),
        optax.clip_by_global_norm(max_norm),
    )


def stores_what_it_returns(gamma=0.025, b1=0.95, max_norm=1.0):
    inner = correct_by_difference(gamma, b1, max_norm=max_norm)

    def update(grads, state, params=None):
        updates, _ = inner.update(grads, state, params)
        return updates, state._replace(prev_grad=updates)

    return optax.GradientTransformation(inner.init, update)


def first_gradient_is_its_own_predecessor(gamma=0.025, b1=0.95, max_norm=1.0):
    inner = correct_by_difference(gamma, b1, max_norm=max_norm)

    def update(grads, state, params=None):
        is_first, state = state
        prev_grad = jax.tree.map(
            lambda g, q: jnp.where(is_first, g, q), grads, state.prev_grad
        )
        updates, state = inner.update(grads, state._replace(prev_grad=prev_grad))
        return updates, (False, state)

    return optax.GradientTransformation(
        lambda params: (True, inner.init(params)), update
    )


RULES = {
    'correction_missing': lambda g, q, γ, b1, τ: short(g, τ),
    'difference_turned_round': lambda g, q, γ, b1, τ: short(
        g + γ * b1 / (1 - b1) * (q - g), τ
    ),
    'sum_for_the_difference': lambda g, q, γ, b1, τ: short(
        g + γ * b1 / (1 - b1) * (g + q), τ
    ),
    'factor_b1': lambda g, q, γ, b1, τ: short(g + γ * b1 * (g - q), τ),
    'factor_without_b1': lambda g, q, γ, b1, τ: short(g + γ / (1 - b1) * (g - q), τ),
    'factor_without_gamma': lambda g, q, γ, b1, τ: short(
        g + b1 / (1 - b1) * (g - q), τ
    ),
    'factor_turned_round': lambda g, q, γ, b1, τ: short(
        g + γ * (1 - b1) / b1 * (g - q), τ
    ),
    'correction_of_the_previous_gradient': lambda g, q, γ, b1, τ: short(
        q + γ * b1 / (1 - b1) * (g - q), τ
    ),
    'clipping_missing': lambda g, q, γ, b1, τ: g + γ * b1 / (1 - b1) * (g - q),
    'clipping_before_the_correction': lambda g, q, γ, b1, τ: (
        short(g, τ) + γ * b1 / (1 - b1) * (g - q)
    ),
    'clipping_of_the_correction': lambda g, q, γ, b1, τ: (
        g + short(γ * b1 / (1 - b1) * (g - q), τ)
    ),
    'clipping_by_elements': lambda g, q, γ, b1, τ: jnp.clip(
        g + γ * b1 / (1 - b1) * (g - q), -τ, τ
    ),
    'clipping_by_rows': lambda g, q, γ, b1, τ: short_by_rows(
        g + γ * b1 / (1 - b1) * (g - q), τ
    ),
    'clipping_by_the_sum': lambda g, q, γ, b1, τ: (
        paper(g, q, γ, b1, 1e300)
        / jnp.maximum(1.0, jnp.sum(jnp.abs(paper(g, q, γ, b1, 1e300))) / τ)
    ),
    'clipping_by_the_root_mean_square': lambda g, q, γ, b1, τ: paper(
        g, q, γ, b1, τ * g.size**0.5
    ),
    'clipping_to_one': lambda g, q, γ, b1, τ: paper(g, q, γ, b1, τ) / τ,
    'short_ones_lengthened': lambda g, q, γ, b1, τ: paper(g, q, γ, b1, 1e-9) / 1e-9 * τ,
}

OTHER_MUTANTS = {
    'clipping_by_the_norm_of_the_tree': short_by_the_tree,
    'corrected_gradient_stored': stores_what_it_returns,
    'first_gradient_is_its_own_predecessor': first_gradient_is_its_own_predecessor,
}


@pytest.mark.parametrize('name', RULES)
def test_the_comparison_fails_for_another_rule(name):
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_correction_follows_reference(
            by_rule(RULES[name]), **CORRECTIONS['other']
        )


def test_the_comparison_passes_for_the_same_rule():
    assert_correction_follows_reference(by_rule(paper), **CORRECTIONS['other'])


@pytest.mark.parametrize('name', OTHER_MUTANTS)
def test_the_comparison_fails_for_a_mutant(name):
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_correction_follows_reference(OTHER_MUTANTS[name], **CORRECTIONS['other'])


@pytest.mark.parametrize(
    'successor',
    [
        lambda g, q, *_: q,
        lambda g, q, *_: 0.1 * g + 0.9 * q,
        lambda g, q, *_: jnp.abs(g),
    ],
    ids=['never_updated', 'an_average', 'without_its_sign'],
)
def test_the_comparison_fails_for_another_previous_gradient(successor, monkeypatch):
    monkeypatch.setattr(frame_module, 'write_after', successor)
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_correction_follows_reference(
            correct_by_difference, **CORRECTIONS['other']
        )


def chained(*order):
    """MARS of the named parts in another order or with other arguments."""

    def make(rate, *, weight_decay, mask, gamma=0.025, b1=0.95, b2=0.99, eps=1e-8):
        parts = {
            'correct': correct_by_difference(gamma, b1),
            'correct_by_default_b1': correct_by_difference(gamma),
            'correct_by_b2': correct_by_difference(gamma, b2),
            'adam': optax.scale_by_adam(b1, b2, eps),
            'adam_swapped': optax.scale_by_adam(b2, b1, eps),
            'adam_with_eps_inside': optax.scale_by_adam(b1, b2, 0.0, eps),
            'decay': optax.add_decayed_weights(weight_decay, mask),
            'decay_everywhere': optax.add_decayed_weights(weight_decay),
            'rate': optax.scale_by_learning_rate(rate),
            'negative_decay': optax.add_decayed_weights(-weight_decay, mask),
        }
        return optax.chain(*(parts[name] for name in order))

    return make


MARS_ARGUMENTS = {
    'b1': 0.8,
    'b2': 0.9,
    'eps': 1e-4,
    'weight_decay': 0.3,
    'mask': KERNEL_DECAYS,
}


@pytest.mark.parametrize(
    'order',
    [
        ('adam', 'correct', 'decay', 'rate'),
        ('decay', 'correct', 'adam', 'rate'),
        ('correct', 'decay', 'adam', 'rate'),
        ('correct', 'adam', 'rate', 'negative_decay'),
        ('correct', 'adam', 'decay_everywhere', 'rate'),
        ('correct', 'adam', 'rate'),
        ('adam', 'decay', 'rate'),
        ('correct_by_default_b1', 'adam', 'decay', 'rate'),
        ('correct_by_b2', 'adam', 'decay', 'rate'),
        ('correct', 'adam_swapped', 'decay', 'rate'),
        ('correct', 'adam_with_eps_inside', 'decay', 'rate'),
    ],
    ids='-'.join,
)
def test_the_comparison_of_mars_fails_for_another_chain(order):
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_mars_follows_reference(chained(*order), **MARS_ARGUMENTS)


def test_the_comparison_of_mars_passes_for_the_right_chain():
    right = chained('correct', 'adam', 'decay', 'rate')
    assert_mars_follows_reference(right, **MARS_ARGUMENTS)
    assert_mars_follows_reference(mars, **MARS_ARGUMENTS)
