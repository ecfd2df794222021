"""AdaDiff at every step: its equations, its published code, and what they exclude."""

import functools
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from problems import gradient_trajectory
from test_trajectories import (
    assert_all_steps_close,
    assert_follows_decay_reference,
    assert_follows_reference,
    recorded_and_reproduced,
)

from diffgrad_optax import adadiff, scale_by_adadiff

HYPERPARAMETERS = {
    'defaults': {},
    'language_models': {'eps_root': 1e-16},
    'other': {'b1': 0.5, 'b2': 0.9, 'eps': 1e-3, 'eps_root': 1e-4},
    'no_momentum': {'b1': 0.0, 'b2': 0.0},
}
RECORDING = json.loads(
    (Path(__file__).parent / 'recorded' / 'adadiff.json').read_text()
)


assert_follows_adadiff = functools.partial(
    assert_follows_reference, oracle=references.adadiff
)


@pytest.mark.parametrize('amsgrad', [False, True], ids=['plain', 'amsgrad'])
@pytest.mark.parametrize('hyperparameters', HYPERPARAMETERS)
def test_every_step_equals_the_equations(hyperparameters, amsgrad):
    assert_follows_adadiff(
        scale_by_adadiff, amsgrad=amsgrad, **HYPERPARAMETERS[hyperparameters]
    )


@pytest.mark.parametrize('amsgrad', [False, True], ids=['plain', 'amsgrad'])
def test_every_step_under_jit_equals_the_equations(amsgrad):
    assert_follows_adadiff(scale_by_adadiff, amsgrad=amsgrad, jit=True)


@pytest.mark.parametrize('amsgrad', [False, True], ids=['plain', 'amsgrad'])
@pytest.mark.parametrize(
    'mask',
    [None, {'dense': {'kernel': True, 'bias': False}, 'gain': False}],
    ids=['all_decays', 'kernel_decays'],
)
def test_every_step_with_a_schedule_and_decoupled_decay(mask, amsgrad):
    def schedule(count):
        return 0.1 / (1.0 + 0.25 * count)

    assert_follows_decay_reference(
        adadiff,
        oracle=references.adadiff,
        learning_rate=schedule,
        weight_decay=0.3,
        mask=mask,
        jit=True,
        amsgrad=amsgrad,
    )


def of_published_code(recorded, dtype):
    names = ('b1', 'b2', 'eps_root', 'amsgrad')
    hyperparameters = {name: recorded[name] for name in names}
    return recorded_and_reproduced(
        adadiff(RECORDING['learning_rate'], **hyperparameters),
        [[param] for param in recorded['params']],
        [[grad] for grad in RECORDING['grads']],
        dtype,
    )


def id_of_recording(recorded):
    return f'{recorded["b1"]}-{recorded["b2"]}-amsgrad_{recorded["amsgrad"]}'


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_the_published_code_is_reproduced(recorded):
    theirs, ours = of_published_code(recorded, np.float64)
    assert_all_steps_close(ours, theirs)


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_the_published_code_is_reproduced_in_float32(recorded, float32):
    theirs, ours = of_published_code(recorded, np.float32)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    # Fifty roundings of parameters of size 1 to 6e-8.
    assert_all_steps_close(ours, theirs, rtol=0, atol=1e-6)


# What the equations say and other readings do not.


def adadiff_by(
    *,
    squares=lambda g, q, m: g**2 + (g - q) ** 2,
    eps_in_state=True,
    eps_in_maximum=False,
    remember_maximum=True,
    correct_before_maximum=False,
    correct=(True, True),
    next_previous=lambda g, q: g,
    first_previous=lambda g: 0.0,
    swap=False,
):
    """AdaDiff written again, with parts that can be replaced by other readings."""

    def make(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8, amsgrad=False):
        if swap:
            b1, b2 = b2, b1

        def init(params):
            zeros = jax.tree.map(jnp.zeros_like, params)
            return jnp.zeros((), jnp.int32), zeros, zeros, zeros, zeros

        def update(updates, state, params=None):
            del params
            count, *trees = state
            t = count + 1
            c1 = 1 - b1**t if correct[0] else 1.0
            c2 = 1 - b2**t if correct[1] else 1.0

            def step(g, m, v, v_max, q):
                q = jnp.where(count == 0, first_previous(g), q)
                m = b1 * m + (1 - b1) * g
                v = b2 * v + (1 - b2) * squares(g, q, m)
                if eps_in_state:
                    v = v + eps_root
                candidate = v / c2 if correct_before_maximum else v
                v_max = jnp.maximum(v_max, candidate) if remember_maximum else v
                if eps_in_maximum:
                    v_max = v_max + eps_root
                divisor = v_max if amsgrad else v
                if correct_before_maximum:
                    divisor = divisor * c2
                if not eps_in_state:
                    divisor = divisor + eps_root
                u = m / c1 / (jnp.sqrt(divisor / c2) + eps)
                return u, m, v, v_max, next_previous(g, q)

            columns = zip(*map(jax.tree.leaves, (updates, *trees)), strict=True)
            treedef = jax.tree.structure(updates)
            new = zip(*(step(*leaves) for leaves in columns), strict=True)
            updates, *trees = (treedef.unflatten(leaves) for leaves in new)
            return updates, (t, *trees)

        return optax.GradientTransformation(init, update)

    return make


# Large enough an ε to be seen, and a second moment that forgets.
SEEN = {'b2': 0.9, 'eps_root': 1e-3}
MUTANTS = {
    'bracket_of_the_readme': (
        {'squares': lambda g, q, m: jnp.abs(g**2 - q**2)},
        {},
    ),
    'change_alone': ({'squares': lambda g, q, m: (g - q) ** 2}, {}),
    'adam': ({'squares': lambda g, q, m: g**2}, {}),
    'adabelief': ({'squares': lambda g, q, m: (g - m) ** 2}, {}),
    'square_of_the_sum': ({'squares': lambda g, q, m: (2 * g - q) ** 2}, {}),
    'eps_outside_the_state': ({'eps_in_state': False}, SEEN),
    'eps_in_the_stored_maximum': ({'eps_in_maximum': True}, {**SEEN, 'amsgrad': True}),
    'maximum_after_bias_correction': (
        {'correct_before_maximum': True},
        {**SEEN, 'amsgrad': True},
    ),
    'maximum_forgotten': ({'remember_maximum': False}, {**SEEN, 'amsgrad': True}),
    'first_moment_not_corrected': ({'correct': (False, True)}, {}),
    'second_moment_not_corrected': ({'correct': (True, False)}, {}),
    'previous_gradient_never_updated': ({'next_previous': lambda g, q: q}, {}),
    'previous_gradient_is_an_average': (
        {'next_previous': lambda g, q: 0.1 * g + 0.9 * q},
        {},
    ),
    'first_gradient_is_its_own_predecessor': ({'first_previous': lambda g: g}, {}),
    'b1_and_b2_swapped': ({'swap': True}, {}),
}


@pytest.mark.parametrize('name', MUTANTS)
def test_the_comparison_fails_for_a_mutant(name):
    changes, hyperparameters = MUTANTS[name]
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_adadiff(adadiff_by(**changes), jit=True, **hyperparameters)


@pytest.mark.parametrize('amsgrad', [False, True], ids=['plain', 'amsgrad'])
@pytest.mark.parametrize('hyperparameters', [{}, SEEN], ids=['defaults', 'seen'])
def test_the_comparison_passes_for_the_same_equations_written_again(
    hyperparameters, amsgrad
):
    assert_follows_adadiff(adadiff_by(), jit=True, amsgrad=amsgrad, **hyperparameters)


def states(optimizer, grads):
    state = optimizer.init(grads[0])
    for g in grads:
        _, state = optimizer.update(g, state)
        yield state


def test_the_stored_maximum_does_not_grow_without_gradients():
    grads = [jnp.ones(2)] + [jnp.zeros(2)] * 20
    optimizer = scale_by_adadiff(b2=0.5, eps_root=1e-6, amsgrad=True)
    _, second, *_, last = states(optimizer, grads)
    chex.assert_trees_all_equal(last.nu_max, second.nu_max)
    assert jnp.all(last.nu < 1e-5)


def test_eps_sums_up_to_its_multiple_where_gradients_vanish():
    *_, last = states(scale_by_adadiff(b2=0.9, eps_root=1e-4), [jnp.zeros(1)] * 300)
    chex.assert_trees_all_close(last.nu, jnp.array([1e-3]), rtol=1e-12)


def test_a_repeated_gradient_moves_as_adam_would():
    # After the first step, whose change is the whole gradient, has been forgotten.
    grads = [jnp.array([0.3, -7.0])] * 40
    optimizer = scale_by_adadiff(b2=0.1, eps_root=0.0)
    *_, (ours, _) = stepwise(optimizer, grads)
    *_, (adams, _) = stepwise(optax.scale_by_adam(b2=0.1, eps=0.0), grads)
    chex.assert_trees_all_close(ours, adams, rtol=1e-12)


def stepwise(optimizer, grads):
    state = optimizer.init(grads[0])
    for g in grads:
        updates, state = optimizer.update(g, state)
        yield updates, state


def test_gradients_of_any_size_make_the_same_steps_without_eps():
    grads = [jnp.asarray(tree['dense']['kernel']) for tree in gradient_trajectory()]
    optimizer = scale_by_adadiff(eps_root=0.0)
    for scale in (2.0**-20, 2.0**20):
        scaled = stepwise(optimizer, [scale * g for g in grads])
        for (ours, _), (expected, _) in zip(
            scaled, stepwise(optimizer, grads), strict=True
        ):
            chex.assert_trees_all_close(ours, expected, rtol=1e-12)


def test_complex_moments_are_those_of_the_modulus():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(5, 3)) + 1j * rng.normal(size=(5, 3))
    optimizer = scale_by_adadiff(amsgrad=True)
    previous, v, m = np.zeros(3), np.zeros(3), np.zeros(3)
    v_max = v
    for t, (g, (update, state)) in enumerate(
        zip(grads, stepwise(optimizer, list(jnp.asarray(grads))), strict=True), start=1
    ):
        change = g - previous
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * (np.abs(g) ** 2 + np.abs(change) ** 2) + 1e-8
        v_max = np.maximum(v, v_max)
        expected = m / (1 - 0.9**t) / np.sqrt(v_max / (1 - 0.999**t))
        np.testing.assert_allclose(update, expected, rtol=1e-12)
        assert state.nu.dtype == state.nu_max.dtype == jnp.float64
        previous = g


def test_bias_corrections_are_exact_in_float32(float32):
    # 1 - 0.999f is 1.3e-5 off, which optax's first step shows.
    for g in (1e-3, 1.0, 1e3):
        optimizer = scale_by_adadiff(eps_root=0.0)
        update, _ = optimizer.update(jnp.array([g]), optimizer.init(jnp.zeros(1)))
        np.testing.assert_allclose(update, [0.5**0.5], rtol=3e-7)


def test_state_without_amsgrad_holds_no_maximum():
    assert scale_by_adadiff().init(jnp.zeros(3)).nu_max is None
