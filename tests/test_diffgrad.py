"""Identities that diffGrad has to obey to the last bit, and the shape of its API."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import gradient_trajectory, initial_params

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffgradw,
    diffrgrad,
    friction_coefficients,
    mars,
    scale_by_diffgrad,
    swats,
    with_friction,
)

DTYPES = ('bfloat16', 'float32', 'float64')


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def run(optimizer, grads, params):
    """The updates of every step, while the parameters stand still."""
    state = optimizer.init(params)
    all_updates = []
    for step_grads in grads:
        updates, state = optimizer.update(step_grads, state, params)
        all_updates.append(updates)
    return all_updates


def problem(dtype='float64', steps=10):
    grads = [cast(tree, dtype) for tree in gradient_trajectory()[:steps]]
    return grads, cast(initial_params(), dtype)


@pytest.mark.parametrize('nesterov', [False, True], ids=['plain', 'nesterov'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_coefficient_one_is_exactly_adam(dtype, nesterov):
    grads, params = problem(dtype)
    ones = diffgrad(0.1, nesterov=nesterov, friction=lambda g, q: jnp.ones_like(g))
    adam = optax.adam(0.1, nesterov=nesterov)
    chex.assert_trees_all_equal(run(ones, grads, params), run(adam, grads, params))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_coefficient_one_half_is_exactly_adam_at_half_the_learning_rate(dtype):
    grads, params = problem(dtype)
    halves = diffgrad(0.1, friction=lambda g, q: jnp.full_like(g, 0.5))
    adam = optax.adam(0.05)
    chex.assert_trees_all_equal(run(halves, grads, params), run(adam, grads, params))


@pytest.mark.parametrize('b1, b2', [(0.9, 0.999), (0.0, 0.5)])
def test_coefficient_one_is_exactly_adam_for_other_hyperparameters(b1, b2):
    grads, params = problem()
    settings = {'b1': b1, 'b2': b2, 'eps': 1e-3, 'eps_root': 1e-2}
    ones = diffgrad(0.1, **settings, friction=lambda g, q: 1.0)
    adam = optax.adam(0.1, **settings)
    chex.assert_trees_all_equal(run(ones, grads, params), run(adam, grads, params))


def test_mu_dtype_stores_the_first_moment_as_adam_does_within_its_rounding():
    grads, params = problem('float32')
    ones = diffgrad(0.1, mu_dtype='bfloat16', friction=lambda g, q: jnp.ones_like(g))
    adam = optax.adam(0.1, mu_dtype='bfloat16')
    # optax multiplies the stored moment in bfloat16 too, and those roundings add up.
    chex.assert_trees_all_close(
        run(ones, grads, params), run(adam, grads, params), atol=0.1 * 2.0**-5
    )
    state = ones.init(params)
    _, state = ones.update(grads[0], state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0].inner_state.mu)} == {
        jnp.dtype('bfloat16')
    }


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('friction', ['dfc', 'dfc1', 'dfc2'])
def test_repeated_gradient_gives_exactly_one_half(friction, dtype):
    grads, params = problem(dtype, steps=1)
    optimizer, adam = scale_by_diffgrad(friction=friction), optax.scale_by_adam()
    ours = run(optimizer, grads * 5, params)
    theirs = run(adam, grads * 5, params)
    for ours_t, theirs_t in zip(ours[1:], theirs[1:], strict=True):
        chex.assert_trees_all_equal(ours_t, jax.tree.map(lambda u: 0.5 * u, theirs_t))
    _, state = optimizer.update(grads[0], optimizer.init(params), params)
    ξ = friction_coefficients(grads[0], state, friction)
    chex.assert_trees_all_equal(ξ, jax.tree.map(lambda x: jnp.full_like(x, 0.5), ξ))


def test_first_step_meets_a_zero_previous_gradient():
    grads, params = problem(steps=1)
    ours = run(scale_by_diffgrad(), grads, params)[0]
    theirs = run(optax.scale_by_adam(), grads, params)[0]
    expected = jax.tree.map(
        lambda u, g: np.asarray(u) / (1.0 + np.exp(-np.abs(g))), theirs, grads[0]
    )
    chex.assert_trees_all_close(ours, expected, rtol=1e-14)


@pytest.mark.parametrize('dtype', DTYPES)
def test_diffgradw_without_decay_is_diffgrad(dtype):
    grads, params = problem(dtype)
    chex.assert_trees_all_equal(
        run(diffgradw(0.1, weight_decay=0.0), grads, params),
        run(diffgrad(0.1), grads, params),
    )


def test_decay_of_diffgradw_is_not_scaled_by_friction():
    grads, params = problem()
    zeros = jax.tree.map(jnp.zeros_like, params)
    # Friction is ½ where the gradient is zero and the decay is nevertheless whole.
    updates = run(diffgradw(0.25, weight_decay=0.5), [zeros], params)[0]
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda p: -0.125 * p, params))
    with_decay = run(diffgradw(0.25, weight_decay=0.5), grads, params)
    without = run(diffgrad(0.25), grads, params)
    for u, v in zip(with_decay, without, strict=True):
        chex.assert_trees_all_close(
            jax.tree.map(jnp.subtract, u, v),
            jax.tree.map(lambda p: -0.125 * p, params),
            rtol=1e-13,
        )


def test_moments_of_diffgradw_do_not_see_the_decay():
    grads, params = problem(steps=3)
    decaying, plain = diffgradw(0.1, weight_decay=0.5), diffgrad(0.1)
    state, plain_state = decaying.init(params), plain.init(params)
    for step_grads in grads:
        _, state = decaying.update(step_grads, state, params)
        _, plain_state = plain.update(step_grads, plain_state, params)
    chex.assert_trees_all_equal(state[0], plain_state[0])


def test_default_decay_is_that_of_adamw():
    grads, params = problem(steps=3)
    ours = run(diffgradw(0.1, friction=lambda g, q: 1.0), grads, params)
    chex.assert_trees_all_equal(ours, run(optax.adamw(0.1), grads, params))


def test_mask_of_diffgradw_may_be_a_function_of_the_parameters():
    grads, params = problem(steps=2)

    def matrices(tree):
        return jax.tree.map(lambda p: p.ndim == 2, tree)

    by_function = diffgradw(0.1, weight_decay=0.5, mask=matrices)
    by_tree = diffgradw(0.1, weight_decay=0.5, mask=matrices(params))
    updates = run(by_function, grads, params)
    chex.assert_trees_all_equal(updates, run(by_tree, grads, params))
    undecayed = run(diffgrad(0.1), grads, params)
    for u, v in zip(updates, undecayed, strict=True):
        chex.assert_trees_all_equal(u['dense']['bias'], v['dense']['bias'])
        assert not np.any(u['dense']['kernel'] == v['dense']['kernel'])


def test_coupled_decay_is_a_chain_whose_friction_sees_the_decay():
    grads, params = problem()
    coupled = optax.chain(optax.add_decayed_weights(0.5), diffgrad(0.1))
    decayed = [jax.tree.map(lambda g, p: g + 0.5 * p, g, params) for g in grads]
    chex.assert_trees_all_equal(
        run(coupled, grads, params), run(diffgrad(0.1), decayed, params)
    )
    state = coupled.init(params)
    _, state = coupled.update(grads[0], state, params)
    chex.assert_trees_all_equal(state[1][0].prev_grad, decayed[0])


def test_update_of_diffgrad_does_not_need_params():
    grads, params = problem(steps=1)
    optimizer = diffgrad(0.1)
    state = optimizer.init(params)
    chex.assert_trees_all_equal(
        optimizer.update(grads[0], state), optimizer.update(grads[0], state, params)
    )


def test_update_of_diffgradw_without_params_is_refused():
    grads, params = problem(steps=1)
    optimizer = diffgradw(0.1)
    with pytest.raises(ValueError, match='params'):
        optimizer.update(grads[0], optimizer.init(params))


@pytest.mark.parametrize('make', [diffgrad, diffgradw])
def test_learning_rate_schedule_starts_at_step_zero(make):
    grads, params = problem(steps=5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    schedule = optax.linear_schedule(1.0, 0.25, transition_steps=3)
    scheduled = run(make(schedule), grads, zeros)
    directions = run(scale_by_diffgrad(), grads, zeros)
    for u, direction, rate in zip(
        scheduled, directions, [1.0, 0.75, 0.5, 0.25, 0.25], strict=True
    ):
        chex.assert_trees_all_close(
            u, jax.tree.map(lambda d, α=rate: -α * d, direction), rtol=1e-14
        )


def test_inject_hyperparams_needs_no_static_args():
    grads, params = problem(steps=4)
    injected = optax.inject_hyperparams(diffgrad)(learning_rate=0.25)
    state = injected.init(params)
    assert set(state.hyperparams) == {'learning_rate', 'b1', 'b2', 'eps', 'eps_root'}
    # Arrays for Python's numbers: 1 - b2 is rounded once more.
    chex.assert_trees_all_close(
        run(injected, grads, params), run(diffgrad(0.25), grads, params), rtol=1e-12
    )


def test_injected_options_by_name_are_kept():
    grads, params = problem(steps=4)
    options = {'nesterov': True, 'friction': 'dfc2', 'prev_grad_dtype': 'bfloat16'}
    injected = optax.inject_hyperparams(diffgrad)(0.25, **options)
    chex.assert_trees_all_close(
        run(injected, grads, params),
        run(diffgrad(0.25, **options), grads, params),
        rtol=1e-12,
    )


@pytest.mark.parametrize('make', [diffgrad, diffgradw])
def test_injected_learning_rate_acts_when_it_is_changed(make):
    grads, params = problem(steps=1)
    injected = optax.inject_hyperparams(make)(learning_rate=0.25)
    update = jax.jit(injected.update)
    state = injected.init(params)
    before, _ = update(grads[0], state, params)
    state.hyperparams['learning_rate'] = jnp.asarray(0.5)
    after, _ = update(grads[0], state, params)
    chex.assert_trees_all_equal(after, jax.tree.map(lambda u: 2.0 * u, before))


def test_injected_weight_decay_acts_when_it_is_changed():
    _, params = problem(steps=1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    injected = optax.inject_hyperparams(diffgradw)(0.5, weight_decay=0.25)
    state = injected.init(params)
    state.hyperparams['weight_decay'] = jnp.asarray(0.5)
    updates, _ = injected.update(zeros, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda p: -0.25 * p, params))


@pytest.mark.parametrize('name', ['b1', 'b2', 'eps', 'eps_root'])
def test_injected_moment_hyperparameters_may_be_schedules(name):
    grads, params = problem(steps=3)
    injected = optax.inject_hyperparams(diffgrad)(
        learning_rate=0.25, **{name: optax.constant_schedule(0.125)}
    )
    plain = diffgrad(0.25, **{name: 0.125})
    chex.assert_trees_all_close(
        run(injected, grads, params), run(plain, grads, params), rtol=1e-12
    )


def test_injected_friction_callable_needs_static_args():
    grads, params = problem(steps=3)
    injected = optax.inject_hyperparams(diffgrad, static_args='friction')(
        learning_rate=0.25, friction=lambda g, q: jnp.full_like(g, 0.5)
    )
    chex.assert_trees_all_close(
        run(injected, grads, params),
        run(optax.adam(0.125), grads, params),
        rtol=1e-12,
    )


def test_a_callable_friction_computes_in_float32_whatever_the_storage():
    def plain(grad, prev_grad):
        return jax.nn.sigmoid(jnp.abs(prev_grad - grad))

    params = jnp.zeros(3, jnp.bfloat16)
    grads = jnp.full(3, 1e-3, jnp.bfloat16)
    state = diffgrad(0.1).init(params)
    coefficients = friction_coefficients(grads, state, plain)
    assert coefficients.dtype == jnp.float32
    chex.assert_trees_all_equal(
        coefficients, friction_coefficients(grads, state, 'dfc')
    )
    assert (coefficients > 0.5).all()


def test_a_real_dtype_is_refused_for_complex_moments_and_names_the_leaf():
    params = {'w': jnp.zeros(2, jnp.complex64)}
    with pytest.raises(TypeError, match=r"mu_dtype=float32 cannot hold .*'w'"):
        diffgrad(0.1, mu_dtype='float32').init(params)


def test_integer_gradients_are_refused_and_the_leaf_is_named():
    state = diffgrad(0.1).init({'w': jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"'w'.* is int"):
        diffgrad(0.1).update({'w': jnp.array([3, 4])}, state)


def test_only_a_transformation_can_be_wrapped():
    with pytest.raises(TypeError, match='inner must be an optax transformation'):
        with_friction(optax.adam)


def test_a_callable_mask_needs_static_args_under_inject_hyperparams():
    factory = optax.inject_hyperparams(diffgradw, static_args='mask')
    optimizer = factory(0.1, weight_decay=0.5, mask=lambda params: params.ndim == 1)
    params = jnp.ones(2)
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.05)


@pytest.mark.parametrize('make', [diffgrad, diffrgrad, adadiff, mars, swats, diffgradw])
def test_a_weight_decay_of_none_adds_no_link_and_needs_no_parameters(make):
    grads, params = problem()
    bare, zero = (make(0.1, weight_decay=decay) for decay in (None, 0.0))
    state = bare.init(params)
    chain = state if type(state) is tuple else (state,)
    assert len(zero.init(params)) == len(chain) + 1
    updates, _ = bare.update(grads[0], state)
    expected, _ = zero.update(grads[0], zero.init(params), params)
    chex.assert_trees_all_equal(updates, expected)
    with pytest.raises(ValueError, match='mask needs a weight_decay, got mask='):
        make(0.1, weight_decay=None, mask={'w': True})
