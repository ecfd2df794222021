"""friction_coefficients tells what the next update will apply, wherever it hides."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffgrad_optax import (
    diffgrad,
    diffgradw,
    friction_coefficients,
    scale_by_diffgrad,
    with_friction,
)

PARAMS = {'body': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}, 'head': jnp.ones(2)}
STEPS = 4


def gradients(seed=0):
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), PARAMS)
        for _ in range(STEPS)
    ]


def masked(inner):
    return optax.masked(inner, {'body': {'w': True, 'b': False}, 'head': True})


def partitioned(inner):
    return optax.partition(
        {'body': inner, 'head': optax.chain(optax.scale(2.0), inner)},
        {'body': 'body', 'head': 'head'},
    )


def injected(inner):
    def factory(step_size):
        return optax.chain(inner, optax.scale(step_size))

    return optax.inject_hyperparams(factory)(step_size=0.1)


WRAPPERS = {
    'bare': lambda inner: inner,
    'chained': lambda inner: optax.chain(inner, optax.scale(-0.1)),
    'chained_twice': lambda inner: optax.chain(
        optax.chain(optax.identity(), inner), optax.trace(0.0)
    ),
    'named_chain': lambda inner: optax.named_chain(
        ('friction', inner), ('rate', optax.scale(-0.1))
    ),
    'injected': injected,
    'apply_if_finite': lambda inner: optax.apply_if_finite(inner, 3),
    'masked_nowhere': lambda inner: optax.masked(inner, True),
}


def assert_coefficient_is_what_was_applied(
    wrap, friction, grads_seen=lambda g: g, jit=False
):
    """u_with = ξ u_without at every step, with ξ from the state before the step."""
    braked = wrap(with_friction(optax.scale_by_adam(), friction))
    free = wrap(optax.scale_by_adam())
    update = jax.jit(braked.update) if jit else braked.update
    free_update = jax.jit(free.update) if jit else free.update
    state, free_state = braked.init(PARAMS), free.init(PARAMS)
    for grads in gradients():
        ξs = friction_coefficients(grads_seen(grads), state, friction)
        updates, state = update(grads, state, PARAMS)
        free_updates, free_state = free_update(grads, free_state, PARAMS)
        chex.assert_trees_all_close(
            updates,
            jax.tree.map(
                lambda u, ξ: u if isinstance(ξ, optax.MaskedNode) else ξ * u,
                free_updates,
                ξs,
            ),
            rtol=1e-13,
        )
        yield ξs


@pytest.mark.parametrize('friction', ['dfc', 'dfc4'])
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_coefficient_is_the_one_applied(wrapper, friction):
    for ξs in assert_coefficient_is_what_was_applied(
        WRAPPERS[wrapper],
        friction,
        # Eagerly its cond would be compiled again at every step.
        jit=wrapper == 'apply_if_finite',
    ):
        chex.assert_trees_all_equal_shapes_and_dtypes(ξs, PARAMS)
        assert not any(np.any(ξ == 0.5) for ξ in jax.tree.leaves(ξs))


def test_coefficient_behind_clipping_is_that_of_the_clipped_gradients():
    clip = optax.clip_by_global_norm(0.5)

    def clipped(grads):
        return clip.update(grads, clip.init(PARAMS))[0]

    def wrap(inner):
        return optax.chain(clip, inner, optax.scale(-0.1))

    steps = list(assert_coefficient_is_what_was_applied(wrap, 'dfc', clipped))
    assert len(steps) == STEPS
    # The unclipped ones have others.
    with pytest.raises(AssertionError, match='not approximately equal'):
        list(assert_coefficient_is_what_was_applied(wrap, 'dfc'))


def test_coefficient_where_no_friction_acts_is_a_masked_node():
    for ξs in assert_coefficient_is_what_was_applied(masked, 'dfc'):
        assert ξs['body']['b'] == optax.MaskedNode()
        assert len(jax.tree.leaves(ξs)) == 2
        # An average over leaves skips it.
        assert all(np.all(ξ > 0.5) for ξ in jax.tree.leaves(ξs))


def test_coefficients_of_a_partition_are_joined():
    def doubled_head(grads):
        return {**grads, 'head': 2.0 * grads['head']}

    steps = assert_coefficient_is_what_was_applied(partitioned, 'dfc', doubled_head)
    for ξs in steps:
        chex.assert_trees_all_equal_shapes_and_dtypes(ξs, PARAMS)


def test_part_of_a_partition_without_friction_is_a_masked_node():
    optimizer = optax.partition(
        {'body': diffgrad(0.1), 'head': optax.adam(0.1)},
        {'body': 'body', 'head': 'head'},
    )
    ξs = friction_coefficients(gradients()[0], optimizer.init(PARAMS), 'dfc')
    assert ξs['head'] == optax.MaskedNode()
    chex.assert_trees_all_equal_shapes_and_dtypes(ξs['body'], PARAMS['body'])


def test_coefficient_behind_multi_steps_is_that_of_the_mean_gradient():
    braked = optax.MultiSteps(scale_by_diffgrad(), 2)
    free = optax.MultiSteps(optax.scale_by_adam(), 2)
    state, free_state = braked.init(PARAMS), free.init(PARAMS)
    update, free_update = jax.jit(braked.update), jax.jit(free.update)
    grads = gradients()
    for pair in (grads[:2], grads[2:]):
        mean = jax.tree.map(lambda g, h: (g + h) / 2.0, *pair)
        for step_grads in pair:
            ξs = friction_coefficients(mean, state, 'dfc')
            updates, state = update(step_grads, state, PARAMS)
            free_updates, free_state = free_update(step_grads, free_state, PARAMS)
        # MultiSteps adds the gradients up in float32, which is where 1e-6 is from.
        chex.assert_trees_all_close(
            updates, jax.tree.map(jnp.multiply, ξs, free_updates), rtol=1e-6
        )
        assert all(np.all(u != 0.0) for u in jax.tree.leaves(updates))


def test_skipped_step_leaves_the_coefficient_as_it_was():
    optimizer = optax.apply_if_finite(scale_by_diffgrad(), 3)
    good, after = gradients()[:2]
    bad = jax.tree.map(lambda g: g * jnp.nan, good)
    _, state = optimizer.update(good, optimizer.init(PARAMS), PARAMS)
    before = friction_coefficients(after, state, 'dfc')
    _, state = optimizer.update(bad, state, PARAMS)
    chex.assert_trees_all_equal(friction_coefficients(after, state, 'dfc'), before)


@pytest.mark.parametrize(
    'make',
    [
        lambda: diffgrad(0.1),
        lambda: diffgradw(0.1),
        lambda: optax.inject_hyperparams(diffgrad)(learning_rate=0.1),
        lambda: optax.inject_hyperparams(diffgradw)(0.1, weight_decay=0.1),
    ],
    ids=['diffgrad', 'diffgradw', 'injected_diffgrad', 'injected_diffgradw'],
)
def test_repeated_gradient_has_the_coefficient_one_half(make):
    optimizer, grads = make(), gradients()[0]
    state = optimizer.init(PARAMS)
    first = friction_coefficients(grads, state, 'dfc')
    chex.assert_trees_all_close(
        first,
        jax.tree.map(lambda g: 1.0 / (1.0 + np.exp(-np.abs(g))), grads),
        rtol=1e-14,
    )
    _, state = optimizer.update(grads, state, PARAMS)
    chex.assert_trees_all_equal(
        friction_coefficients(grads, state, 'dfc'),
        jax.tree.map(lambda p: jnp.full_like(p, 0.5), PARAMS),
    )


def test_coefficients_are_the_same_under_jit():
    optimizer, (first, second, *_) = diffgrad(0.1), gradients()
    _, state = optimizer.update(first, optimizer.init(PARAMS))
    chex.assert_trees_all_close(
        jax.jit(friction_coefficients, static_argnums=2)(second, state, 'dfc'),
        friction_coefficients(second, state, 'dfc'),
        rtol=1e-14,
    )


def test_looking_at_the_coefficients_changes_no_state():
    optimizer, (first, second, *_) = diffgrad(0.1), gradients()
    _, state = optimizer.update(first, optimizer.init(PARAMS))
    copy = jax.tree.map(jnp.copy, state)
    friction_coefficients(second, state, 'dfc')
    chex.assert_trees_all_equal(state, copy)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
def test_coefficients_of_16_bit_gradients_are_float32(dtype):
    params = jnp.zeros(2, dtype)
    grads = jnp.full(2, 5e-4, dtype)
    ξs = friction_coefficients(grads, diffgrad(0.1).init(params), 'dfc')
    assert ξs.dtype == jnp.float32
    assert np.all(ξs > 0.5)


def test_coefficient_callable_is_the_one_asked_for():
    def quarter(grad, prev_grad):
        del prev_grad
        return jnp.full_like(grad, 0.25)

    state = diffgrad(0.1, friction=quarter).init(PARAMS)
    chex.assert_trees_all_equal(
        friction_coefficients(gradients()[0], state, quarter),
        jax.tree.map(lambda p: jnp.full_like(p, 0.25), PARAMS),
    )


@pytest.mark.parametrize(
    'nest', [lambda inner: inner, optax.chain], ids=['directly', 'in_a_chain']
)
def test_two_frictions_on_one_parameter_are_refused(nest):
    optimizer = with_friction(nest(with_friction(optax.sgd(0.1))))
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match=r"two frictions for \['body'\]\['b'\]"):
        friction_coefficients(gradients()[0], state, 'dfc')
    # The part of the state that belongs to one is as good as any state.
    friction_coefficients(gradients()[0], state.inner_state, 'dfc')


def test_two_frictions_in_a_row_are_refused():
    optimizer = optax.chain(diffgrad(0.1), with_friction(optax.identity()))
    with pytest.raises(ValueError, match='two frictions'):
        friction_coefficients(gradients()[0], optimizer.init(PARAMS), 'dfc')


@pytest.mark.parametrize(
    'state',
    [optax.adam(0.1).init(PARAMS), (), None, PARAMS],
    ids=['adam', 'empty', 'none', 'params'],
)
def test_state_without_friction_is_refused(state):
    with pytest.raises(ValueError, match=r'no FrictionState.*diffgrad'):
        friction_coefficients(gradients()[0], state, 'dfc')


@pytest.mark.parametrize('shape', [(3,), (1,), (2, 2)])
def test_gradient_of_another_shape_than_its_state_is_refused(shape):
    state = diffgrad(0.1).init(PARAMS)
    grads = {**PARAMS, 'head': jnp.ones(shape)}
    with pytest.raises(ValueError, match='head'):
        friction_coefficients(grads, state, 'dfc')


def test_unknown_and_uncallable_frictions_are_refused():
    state = diffgrad(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=r"friction.*'relu'"):
        friction_coefficients(PARAMS, state, 'relu')
    with pytest.raises(TypeError, match=r'friction.*None'):
        friction_coefficients(PARAMS, state, None)
