"""The trajectory comparison sees the core: it fails for every mutant of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from test_trajectories import assert_follows_decay_reference, assert_follows_reference

import diffgrad_optax._diffgrad as diffgrad_module
import diffgrad_optax._frame as frame_module
from diffgrad_optax import diffgradw, friction, scale_by_diffgrad, with_friction

pytestmark = pytest.mark.quick

SCALE_BY_ADAM = optax.scale_by_adam
WITH_FRICTION = with_friction


class Mutant(NamedTuple):
    mutate: Callable[[pytest.MonkeyPatch], None]
    hyperparameters: dict[str, Any]


def coefficient(name, function):
    """A coefficient replaced under its name."""
    return Mutant(
        lambda m: m.setitem(friction.COEFFICIENTS, name, function), {'friction': name}
    )


def within_friction(name, function, used_by='dfc'):
    """A helper of the coefficients replaced."""
    return Mutant(lambda m: m.setattr(friction, name, function), {'friction': used_by})


def adam(make, **hyperparameters):
    """The Adam that friction is put around replaced."""
    return Mutant(lambda m: m.setattr(optax, 'scale_by_adam', make), hyperparameters)


def written(function):
    """What is written over the previous gradient replaced, for one array."""
    return Mutant(lambda m: m.setattr(frame_module, 'write_after', function), {})


def around(function):
    """The use of with_friction in scale_by_diffgrad replaced."""
    return Mutant(lambda m: m.setattr(diffgrad_module, 'with_friction', function), {})


def adam_by(direction):
    """Adam with optax's own moments and another direction made of them."""

    def make(b1, b2, eps, eps_root, *, nesterov):
        inner = SCALE_BY_ADAM(b1, b2, eps, eps_root, nesterov=nesterov)

        def update(updates, state, params=None):
            del params
            _, state = inner.update(updates, state)
            t = state.count
            return (
                jax.tree.map(
                    lambda m, v, g: direction(
                        m, v, g, 1 - b1**t, 1 - b2**t, b1, eps, eps_root
                    ),
                    state.mu,
                    state.nu,
                    updates,
                ),
                state,
            )

        return optax.GradientTransformation(inner.init, update)

    return make


def adam_with(**replaced):
    """Adam for which some arguments are others: {'b1': 'b2'} passes b2 as b1."""

    def make(b1, b2, eps, eps_root, *, nesterov):
        given = {'b1': b1, 'b2': b2, 'eps': eps, 'eps_root': eps_root}
        passed = {name: given[replaced.get(name, name)] for name in given}
        return SCALE_BY_ADAM(**passed, nesterov=nesterov)

    return make


def paper(m, v, g, c1, c2, b1, eps, eps_root):
    return m / c1 / (jnp.sqrt(v / c2 + eps_root) + eps)


def eps_before_correction(m, v, g, c1, c2, b1, eps, eps_root):
    return m / c1 / ((jnp.sqrt(v) + eps) / jnp.sqrt(c2))


def eps_root_before_correction(m, v, g, c1, c2, b1, eps, eps_root):
    return m / c1 / (jnp.sqrt((v + eps_root) / c2) + eps)


def without_first_correction(m, v, g, c1, c2, b1, eps, eps_root):
    return m / (jnp.sqrt(v / c2 + eps_root) + eps)


def without_second_correction(m, v, g, c1, c2, b1, eps, eps_root):
    return m / c1 / (jnp.sqrt(v + eps_root) + eps)


def nesterov_without_its_own_correction(m, v, g, c1, c2, b1, eps, eps_root):
    m_hat = (b1 * m + (1 - b1) * g) / c1
    return m_hat / (jnp.sqrt(v / c2 + eps_root) + eps)


def statistics(size, correction=0):
    """The mean and standard deviation of `size(grad)`, nothing for a scalar."""

    def of(grad):
        s = size(grad)
        return jnp.mean(s), jnp.std(s, ddof=correction if s.size > 1 else 0)

    return of


def relative_to(size):
    """relative_dfc with another measure of an array than its root mean square."""
    return coefficient(
        'relative_dfc',
        lambda g, q: jax.nn.sigmoid(jnp.abs(q - g) / (size(g) + 1e-300)),
    )


def previous_gradient_accumulates(grad, prev_grad, *_):
    return 0.1 * grad + 0.9 * prev_grad


def in_bfloat16(grad, prev_grad, *_):
    return grad.astype(jnp.bfloat16).astype(prev_grad.dtype)


def friction_on_the_gradient(inner, name, *, prev_grad_dtype=None):
    """Adam of ξ g instead of ξ times Adam of g."""
    brake = WITH_FRICTION(optax.identity(), name, prev_grad_dtype=prev_grad_dtype)
    return optax.chain(brake, inner)


def first_gradient_is_its_own_predecessor(inner, name, *, prev_grad_dtype=None):
    braked = WITH_FRICTION(inner, name, prev_grad_dtype=prev_grad_dtype)

    def update(updates, state, params=None, **extra_args):
        first = state.inner_state.count == 0
        prev_grad = jax.tree.map(
            lambda g, q: jnp.where(first, g, q), updates, state.prev_grad
        )
        return braked.update(
            updates, state._replace(prev_grad=prev_grad), params, **extra_args
        )

    return optax.GradientTransformationExtraArgs(braked.init, update)


def friction_sees_the_update(inner, name, *, prev_grad_dtype=None):
    """Differences of Adam's updates instead of the gradients'."""
    brake = WITH_FRICTION(optax.identity(), name, prev_grad_dtype=prev_grad_dtype)
    return optax.chain(inner, brake)


MUTANTS = {
    'friction_dropped': coefficient('dfc', lambda g, q: jnp.ones_like(g)),
    'friction_constant_one_half': coefficient(
        'dfc', lambda g, q: jnp.full_like(g, 0.5)
    ),
    'gradient_compared_with_itself': within_friction(
        '_difference', lambda grad, prev_grad: grad - grad
    ),
    'previous_gradient_never_updated': written(lambda g, q, *_: q),
    'previous_gradient_is_an_average': written(previous_gradient_accumulates),
    'previous_gradient_loses_its_sign': written(lambda g, q, *_: jnp.abs(g)),
    'previous_gradient_in_bfloat16': written(in_bfloat16),
    'first_gradient_is_its_own_predecessor': around(
        first_gradient_is_its_own_predecessor
    ),
    'friction_on_the_gradient': around(friction_on_the_gradient),
    'friction_sees_the_update': around(friction_sees_the_update),
    'absolute_value_removed': within_friction('_distance', friction._difference),
    'square_for_the_absolute_value': within_friction(
        '_distance', lambda g, q: (g - q) ** 2
    ),
    'absolute_values_subtracted': within_friction(
        '_distance', lambda g, q: jnp.abs(jnp.abs(g) - jnp.abs(q))
    ),
    'tanh_for_the_sigmoid': coefficient('dfc', lambda g, q: jnp.tanh(jnp.abs(q - g))),
    'absolute_value_added_to_dfc1': coefficient('dfc1', friction.dfc),
    'difference_of_dfc1_turned_round': coefficient(
        'dfc1', lambda g, q: friction.dfc1(q, g)
    ),
    'minus_4_of_dfc2_inside_its_denominator': coefficient(
        'dfc2', lambda g, q: 9.0 / (1.0 + jnp.exp(-jnp.abs(q - g) / 2.0) - 4.0)
    ),
    'half_of_dfc2_forgotten': coefficient(
        'dfc2', lambda g, q: 9.0 * jax.nn.sigmoid(jnp.abs(q - g)) - 4.0
    ),
    'dfc3_is_dfc4': coefficient('dfc3', friction.dfc4),
    'dfc4_is_dfc5': coefficient('dfc4', friction.dfc5),
    'dfc5_is_dfc3': coefficient('dfc5', friction.dfc3),
    'sample_deviation': within_friction(
        '_statistics', statistics(jnp.abs, correction=1), used_by='dfc3'
    ),
    'statistics_of_signed_gradients': within_friction(
        '_statistics', statistics(lambda g: g), used_by='dfc3'
    ),
    'statistics_of_previous_gradient': coefficient(
        'dfc3', lambda g, q: friction.dfc3(q, g)
    ),
    'statistics_per_row': within_friction(
        '_statistics',
        lambda g: (
            jnp.mean(jnp.abs(g), axis=g.ndim - 1 if g.ndim else None, keepdims=True),
            jnp.std(jnp.abs(g), axis=g.ndim - 1 if g.ndim else None, keepdims=True),
        ),
        used_by='dfc3',
    ),
    'relative_to_the_previous_gradient': coefficient(
        'relative_dfc', lambda g, q: friction.relative_dfc(q, g)
    ),
    'relative_to_the_mean_size': relative_to(lambda g: jnp.mean(jnp.abs(g))),
    'relative_to_the_sum_of_squares': relative_to(lambda g: jnp.sum(g**2) ** 0.5),
    'relative_to_each_element': relative_to(jnp.abs),
    'relative_to_the_deviation': relative_to(
        lambda g: jnp.sqrt(jnp.mean((jnp.abs(g) - jnp.mean(jnp.abs(g))) ** 2))
    ),
    'b1_and_b2_swapped': adam(adam_with(b1='b2', b2='b1')),
    'eps_and_eps_root_swapped': adam(
        adam_with(eps='eps_root', eps_root='eps'), eps_root=1e-12
    ),
    'eps_root_dropped': adam(
        lambda b1, b2, eps, eps_root, *, nesterov: SCALE_BY_ADAM(b1, b2, eps),
        eps_root=1e-12,
    ),
    'eps_before_bias_correction': adam(adam_by(eps_before_correction)),
    'eps_root_before_bias_correction': adam(
        adam_by(eps_root_before_correction), eps_root=1e-12
    ),
    'first_moment_not_corrected': adam(adam_by(without_first_correction)),
    'second_moment_not_corrected': adam(adam_by(without_second_correction)),
    'nesterov_ignored': adam(adam_by(paper), nesterov=True),
    'nesterov_without_its_own_correction': adam(
        adam_by(nesterov_without_its_own_correction), nesterov=True
    ),
}


@pytest.mark.parametrize('name', MUTANTS)
def test_the_comparison_fails_for_a_mutant(name, monkeypatch):
    mutant = MUTANTS[name]
    mutant.mutate(monkeypatch)
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(scale_by_diffgrad, **mutant.hyperparameters)


UNMUTATED = {
    ', '.join(f'{k}={v}' for k, v in mutant.hyperparameters.items()): mutant
    for mutant in MUTANTS.values()
}


@pytest.mark.parametrize('name', UNMUTATED)
def test_the_comparison_passes_without_the_mutation(name):
    assert_follows_reference(scale_by_diffgrad, **UNMUTATED[name].hyperparameters)


def test_the_comparison_passes_for_a_mutant_that_computes_the_same(monkeypatch):
    # Rebuilding Adam from its moments is not what the mutants above fail for.
    monkeypatch.setattr(optax, 'scale_by_adam', adam_by(paper))
    assert_follows_reference(scale_by_diffgrad, eps_root=1e-12)


DECAY = {
    'learning_rate': 0.03,
    'weight_decay': 0.3,
    'mask': {'dense': {'kernel': True, 'bias': False}, 'gain': False},
}


def decay_under_friction(rate, *, weight_decay, mask):
    decayed = optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask)
    )
    return optax.chain(WITH_FRICTION(decayed), optax.scale_by_learning_rate(rate))


def decay_in_the_gradient(rate, *, weight_decay, mask):
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(decay, scale_by_diffgrad(), optax.scale_by_learning_rate(rate))


def decay_without_learning_rate(rate, *, weight_decay, mask):
    return optax.chain(
        scale_by_diffgrad(),
        optax.scale_by_learning_rate(rate),
        optax.add_decayed_weights(-weight_decay, mask),
    )


def decay_without_mask(rate, *, weight_decay, mask):
    del mask
    return diffgradw(rate, weight_decay=weight_decay)


def mask_turned_round(rate, *, weight_decay, mask):
    inverse = jax.tree.map(lambda decays: not decays, mask)
    return diffgradw(rate, weight_decay=weight_decay, mask=inverse)


def learning_rate_one_step_late(rate, *, weight_decay, mask):
    def schedule(count):
        return jnp.where(count == 0, 0.0, rate)

    return diffgradw(schedule, weight_decay=weight_decay, mask=mask)


@pytest.mark.parametrize(
    'make_optimizer',
    [
        decay_under_friction,
        decay_in_the_gradient,
        decay_without_learning_rate,
        decay_without_mask,
        mask_turned_round,
        learning_rate_one_step_late,
    ],
)
def test_the_comparison_with_decay_fails_for_a_mutant(make_optimizer):
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_decay_reference(make_optimizer, **DECAY)


def test_the_comparison_with_decay_passes_without_a_mutation():
    assert_follows_decay_reference(diffgradw, **DECAY)
