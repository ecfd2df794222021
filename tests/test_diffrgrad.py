"""diffRGrad at every step: RAdam's equations times the coefficient's."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
import references
from problems import gradient_trajectory, initial_params
from test_trajectories import assert_all_steps_close, per_array, run

from diffgrad_optax import diffrgrad, with_friction

HYPERPARAMETERS = {
    'defaults': {},
    'other': {'b1': 0.5, 'b2': 0.9, 'eps': 1e-3, 'eps_root': 1e-4},
    'threshold_of_the_paper': {'threshold': 4.0},
    'late': {'threshold': 20.0},
}


def assert_follows_reference(make, *, friction='dfc', jit=False, **hyperparameters):
    grads = gradient_trajectory()

    def oracle(array):
        directions = references.radam(array, **hyperparameters)
        ξs = references.coefficients(array, friction)
        return [-0.03 * ξ * u for ξ, u in zip(ξs, directions, strict=True)]

    actual = run(
        make(0.03, friction=friction, **hyperparameters),
        grads,
        initial_params(),
        jit=jit,
    )
    assert_all_steps_close(actual, per_array(oracle, grads))


@pytest.mark.parametrize('friction', ['dfc', 'dfc3', 'relative_dfc'])
@pytest.mark.parametrize('hyperparameters', HYPERPARAMETERS)
def test_every_step_equals_the_equations(hyperparameters, friction):
    assert_follows_reference(
        diffrgrad, friction=friction, jit=True, **HYPERPARAMETERS[hyperparameters]
    )


def diffrgrad_by(scale_by_radam=optax.scale_by_radam, around=with_friction, **replaced):
    """diffRGrad of other parts; {'b1': 'b2'} passes b2 as b1."""

    def make(
        rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, *, friction
    ):
        given = {
            'b1': b1,
            'b2': b2,
            'eps': eps,
            'eps_root': eps_root,
            'threshold': threshold,
        }
        passed = {name: given[replaced.get(name, name)] for name in given}
        braked = around(scale_by_radam(**passed), friction)
        return optax.chain(braked, optax.scale_by_learning_rate(rate))

    return make


def scale_by_adam_instead(b1, b2, eps, eps_root, threshold):
    del threshold
    return optax.scale_by_adam(b1, b2, eps, eps_root)


def threshold_never_met(b1, b2, eps, eps_root, threshold):
    del threshold
    return optax.scale_by_radam(b1, b2, eps, eps_root, threshold=1e9)


def nesterov(b1, b2, eps, eps_root, threshold):
    return optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=True)


def friction_on_the_gradient(inner, friction):
    return optax.chain(with_friction(optax.identity(), friction), inner)


def friction_on_the_rectified_steps_alone(inner, friction):
    braked = with_friction(inner, friction)

    def update(updates, state, params=None):
        free, _ = inner.update(updates, state.inner_state, params)
        slow, new_state = braked.update(updates, state, params)
        rectified = new_state.inner_state.count > 5
        return (
            jax.tree.map(lambda s, f: jnp.where(rectified, s, f), slow, free),
            new_state,
        )

    return optax.GradientTransformation(braked.init, update)


MUTANTS = {
    'adam': (diffrgrad_by(scale_by_adam_instead), {}),
    'never_rectified': (diffrgrad_by(threshold_never_met), {}),
    'nesterov': (diffrgrad_by(nesterov), {}),
    'b1_and_b2_swapped': (diffrgrad_by(b1='b2', b2='b1'), {}),
    'eps_and_eps_root_swapped': (
        diffrgrad_by(eps='eps_root', eps_root='eps'),
        {'eps_root': 1e-6},
    ),
    'friction_dropped': (diffrgrad_by(around=lambda inner, friction: inner), {}),
    'friction_on_the_gradient': (diffrgrad_by(around=friction_on_the_gradient), {}),
    'friction_on_the_rectified_steps_alone': (
        diffrgrad_by(around=friction_on_the_rectified_steps_alone),
        {},
    ),
}


@pytest.mark.parametrize('name', MUTANTS)
def test_the_comparison_fails_for_a_mutant(name):
    make, hyperparameters = MUTANTS[name]
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(make, jit=True, **hyperparameters)


@pytest.mark.parametrize('hyperparameters', [{}, {'eps_root': 1e-6}], ids=str)
def test_the_comparison_passes_for_the_parts_put_together_again(hyperparameters):
    assert_follows_reference(diffrgrad_by(), jit=True, **hyperparameters)


def test_it_is_friction_around_radam_to_the_bit():
    grads, params = gradient_trajectory()[:10], initial_params()
    wrapped = optax.chain(
        with_friction(optax.scale_by_radam()), optax.scale_by_learning_rate(0.1)
    )
    chex.assert_trees_all_equal(
        list(run(diffrgrad(0.1), grads, params)), list(run(wrapped, grads, params))
    )
