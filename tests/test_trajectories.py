"""Every step of every trajectory, against equations and against recorded numbers."""

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
from problems import STEPS, gradient_trajectory, initial_params

from diffgrad_optax import diffgrad, diffgradw, scale_by_diffgrad, with_friction

VARIANTS = ('dfc', 'dfc1', 'dfc2', 'dfc3', 'dfc4', 'dfc5', 'relative_dfc')

ADAM_HYPERPARAMETERS = {
    'defaults': {},
    'tiny_eps': {'eps': 1e-16},
    'other': {'b1': 0.5, 'b2': 0.9, 'eps': 1e-3, 'eps_root': 1e-4},
}

RECORDED = Path(__file__).parent / 'recorded' / 'torch_optimizer_diffgrad.json'
RECORDING = json.loads(RECORDED.read_text())


def per_array(oracle, trajectory, *trees):
    """What `oracle`, which knows one array, answers for a trajectory of trees.

    It is called with the list of one array's gradients and its leaf of each tree.
    """
    arrays = list(zip(*map(jax.tree.leaves, trajectory), strict=True))
    answers = map(oracle, arrays, *map(jax.tree.leaves, trees))
    treedef = jax.tree.structure(trajectory[0])
    return [treedef.unflatten(leaves) for leaves in zip(*answers, strict=True)]


def run(optimizer, grads, params, *, move_params=True, jit=False):
    """Yields the updates of every step; `params` follow them if `move_params`."""
    update = jax.jit(optimizer.update) if jit else optimizer.update
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for step_grads in grads:
        updates, state = update(step_grads, state, params)
        if move_params:
            params = optax.apply_updates(params, updates)
        yield updates


def assert_all_steps_close(actual, expected, rtol=1e-11, atol=1e-13):
    assert len(expected) == STEPS
    for t, (u, v) in enumerate(zip(actual, expected, strict=True), start=1):
        chex.assert_trees_all_close(
            u, v, rtol=rtol, atol=atol, custom_message=f'at step {t}'
        )


def assert_follows_reference(
    make_optimizer, *, oracle=references.diffgrad, jit=False, **hyperparameters
):
    """Compares `make_optimizer(**hyperparameters)` with the equations of `oracle`."""
    grads, params = gradient_trajectory(), initial_params()
    expected = per_array(lambda array: oracle(array, **hyperparameters), grads)
    actual = run(make_optimizer(**hyperparameters), grads, params, jit=jit)
    assert_all_steps_close(actual, expected)


def assert_follows_decay_reference(
    make_optimizer,
    *,
    oracle=references.diffgrad,
    learning_rate,
    weight_decay,
    mask=None,
    jit=False,
    **hyperparameters,
):
    """The same with a learning rate and decoupled decay where `mask` is true."""
    grads, params = gradient_trajectory(), initial_params()
    rates = [
        learning_rate(t) if callable(learning_rate) else learning_rate
        for t in range(STEPS)
    ]
    decayed = jax.tree.map(lambda _: True, params) if mask is None else mask
    expected = per_array(
        lambda array, param, is_decayed: references.decoupled_decay(
            oracle(array, **hyperparameters),
            param,
            rates,
            weight_decay if is_decayed else 0.0,
        ),
        grads,
        params,
        decayed,
    )
    optimizer = make_optimizer(
        learning_rate, weight_decay=weight_decay, mask=mask, **hyperparameters
    )
    assert_all_steps_close(run(optimizer, grads, params, jit=jit), expected)


@pytest.mark.parametrize('nesterov', [False, True], ids=['plain', 'nesterov'])
@pytest.mark.parametrize('friction', VARIANTS)
@pytest.mark.parametrize('hyperparameters', ADAM_HYPERPARAMETERS)
def test_every_step_of_scale_by_diffgrad_equals_the_equations(
    friction, nesterov, hyperparameters
):
    assert_follows_reference(
        scale_by_diffgrad,
        friction=friction,
        nesterov=nesterov,
        **ADAM_HYPERPARAMETERS[hyperparameters],
    )


@pytest.mark.parametrize('friction', VARIANTS)
def test_every_step_under_jit_equals_the_equations(friction):
    assert_follows_reference(scale_by_diffgrad, friction=friction, jit=True)


@pytest.mark.parametrize('friction', VARIANTS)
def test_every_step_of_diffgrad_equals_the_equations(friction):
    def without_decay(learning_rate, *, weight_decay, mask, **hyperparameters):
        del weight_decay, mask
        return diffgrad(learning_rate, **hyperparameters)

    assert_follows_decay_reference(
        without_decay, learning_rate=0.03, weight_decay=0.0, friction=friction
    )


@pytest.mark.parametrize('nesterov', [False, True], ids=['plain', 'nesterov'])
@pytest.mark.parametrize(
    'mask',
    [None, {'dense': {'kernel': True, 'bias': False}, 'gain': False}],
    ids=['all_decays', 'kernel_decays'],
)
@pytest.mark.parametrize('friction', ['dfc', 'dfc4'])
def test_every_step_of_diffgradw_equals_the_equations(friction, nesterov, mask):
    assert_follows_decay_reference(
        diffgradw,
        learning_rate=0.03,
        weight_decay=0.3,
        mask=mask,
        friction=friction,
        nesterov=nesterov,
    )


def test_every_step_of_diffgradw_with_a_schedule_equals_the_equations():
    def schedule(count):
        return 0.1 / (1.0 + 0.25 * count)

    assert_follows_decay_reference(
        diffgradw, learning_rate=schedule, weight_decay=0.1, jit=True
    )


@pytest.mark.parametrize('friction', ['dfc', 'dfc3'])
@pytest.mark.parametrize(
    'inner',
    [
        optax.lion(0.1),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.amsgrad(0.1),
        optax.adabelief(0.1),
        optax.radam(0.1),
    ],
    ids=['lion', 'sgd_with_momentum', 'amsgrad', 'adabelief', 'radam'],
)
def test_every_step_of_with_friction_is_the_coefficient_times_the_inner_step(
    inner, friction
):
    grads, params = gradient_trajectory(), initial_params()
    assert_coefficient_times_inner(inner, friction, grads, params)


def test_every_step_of_muon_with_friction_is_the_coefficient_times_its_step():
    # Muon takes matrices only, and without dimension numbers no tree of them.
    grads = [tree['dense']['kernel'] for tree in gradient_trajectory()]
    params = initial_params()['dense']['kernel']
    # Jitted: eagerly its vmap would be compiled again at every step.
    assert_coefficient_times_inner(
        optax.contrib.scale_by_muon(), 'dfc', grads, params, jit=True
    )


def assert_coefficient_times_inner(inner, friction, grads, params, *, jit=False):
    # The parameters stand still, so that a decay inside sees the same ones twice.
    inner_updates = run(inner, grads, params, move_params=False, jit=jit)
    ξs = per_array(lambda array: references.coefficients(array, friction), grads)
    expected = [
        jax.tree.map(lambda ξ, u: ξ * np.asarray(u), *pair)
        for pair in zip(ξs, inner_updates, strict=True)
    ]
    optimizer = with_friction(inner, friction)
    actual = run(optimizer, grads, params, move_params=False, jit=jit)
    assert_all_steps_close(actual, expected)


def recorded_and_reproduced(optimizer, params, grads, dtype):
    """The parameters after each step: the recorded ones, and ours by `optimizer`.

    `params` and `grads` are those of every step, each a list of arrays.
    """

    def arrays(steps):
        return [[np.array(array, dtype) for array in step] for step in steps]

    start, *recorded = arrays(params)
    update = jax.jit(optimizer.update)
    ours = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(ours)
    reproduced = []
    for step_grads in arrays(grads):
        updates, state = update(step_grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        reproduced.append(ours)
    return recorded, reproduced


def of_torch_optimizer(recorded, dtype):
    optimizer = optax.chain(
        optax.add_decayed_weights(recorded['weight_decay']),
        diffgrad(RECORDING['learning_rate'], recorded['b1'], recorded['b2'], eps=0.0),
    )
    return recorded_and_reproduced(
        optimizer, recorded['params'], recorded['grads'], dtype
    )


def id_of_recording(recorded):
    return f'{recorded["b1"]}-{recorded["b2"]}-decay_{recorded["weight_decay"]}'


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_the_authors_corrected_code_is_reproduced(recorded):
    theirs, ours = of_torch_optimizer(recorded, np.float64)
    assert_all_steps_close(ours, theirs)


@pytest.mark.parametrize('recorded', RECORDING['runs'], ids=id_of_recording)
def test_every_step_of_the_authors_corrected_code_is_reproduced_in_float32(
    recorded, float32
):
    theirs, ours = of_torch_optimizer(recorded, np.float32)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    # Fifty steps of 1e-3, each with the rounding of 1 - b2^t to 1e-5 of itself in
    # float32, and parameters of size 1 to 6e-8.
    assert_all_steps_close(ours, theirs, rtol=1e-6, atol=1e-6)
