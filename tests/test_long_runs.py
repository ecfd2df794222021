"""Runs of more steps than anyone takes: counters that stop, memory that stays."""

import gc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import REGISTRY

from diffgrad_optax import dequantize_state, schedules
from diffgrad_optax._moments import bias_correction

LAST = np.iinfo('int32').max
LONG = 100_000

# One of each kind of state, and each way to correct a bias.
KINDS = (
    'diffgrad-nesterov-bfloat16',
    'diffrgrad',
    'adadiff-amsgrad-bfloat16',
    'mars',
    'swats',
    'swats-switching',
    'scale_by_gains',
    'learning_rate_dropout',
    'quantize_state-sgd',
)
PARAMS = {'w': jnp.ones((2, 3), 'float32'), 'b': jnp.ones(3, 'bfloat16')}


def made(name):
    return REGISTRY[name].make(**REGISTRY[name].kwargs)


def is_count(path):
    return getattr(path[-1], 'name', None) == 'count'


def with_counts(state, number):
    """`state` after so many steps, as far as it counts them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, number) if is_count(path) else x, state
    )


def counts(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [int(leaf) for path, leaf in leaves if is_count(path)]


def check_finite(updates, state):
    leaves = jax.tree.leaves((updates, dequantize_state(state)))
    chex.assert_tree_all_finite(
        [x for x in leaves if jnp.issubdtype(x.dtype, jnp.number)]
    )


@pytest.mark.parametrize('name', KINDS)
def test_long_scans_allocate_nothing_that_grows_and_counters_stop(name):
    opt = made(name)

    def step(carry, _):
        t, state, _ = carry
        # Gradients of both signs at first, then half a run without any.
        size = jnp.where(t < LONG // 2, jnp.cos(t.astype('float32')), 0)
        grads = jax.tree.map(lambda p: p * size.astype(p.dtype), PARAMS)
        updates, state = opt.update(grads, state, PARAMS)
        return (t + 1, state, updates), None

    @jax.jit
    def run(state):
        return jax.lax.scan(step, (jnp.int32(0), state, PARAMS), length=LONG)[0]

    start = opt.init(PARAMS)
    compiled = run.lower(start).compile()
    # Less than a byte a step.
    assert compiled.memory_analysis().temp_size_in_bytes < LONG
    for begin, end in ((0, LONG), (LAST - 10, LAST)):
        _, state, updates = compiled(with_counts(start, begin))
        check_finite(updates, state)
        # That of a phase that is over has stopped before.
        assert min(counts(state), default=end) > 0
        assert max(counts(state), default=end) == end


def test_no_step_leaves_an_array_behind():
    # Not compiled, since what is compiled runs no Python.
    opt = optax.chain(made('correct_by_difference'), made('scale_by_gains'))
    params = PARAMS['w']
    state = opt.init(params)
    alive = []
    for _ in range(4):
        updates, state = opt.update(params, state, params)
        gc.collect()
        alive.append(len(jax.live_arrays()))
    del updates
    assert alive[1:] == alive[1:2] * 3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('decay', [0.0, 0.5, 0.9, 0.99])
def test_bias_corrections_end_at_one(decay, dtype):
    assert bias_correction(decay, jnp.int32(LAST), np.dtype(dtype)) == 1


@pytest.mark.parametrize('decay', [1e-3, 0.3, 0.5, 0.9, 0.999, 0.9999])
@pytest.mark.parametrize('count', [1, 2, 5, 1000])
def test_bias_corrections_keep_the_digits_of_float32(decay, count):
    found = bias_correction(decay, jnp.int32(count), np.dtype('float32'))
    expected = -np.expm1(count * np.log(np.float64(np.float32(decay))))
    np.testing.assert_allclose(found, expected, rtol=3e-7)


@pytest.mark.parametrize('decay', [0.0, 1e-3, 0.3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize('count', [1, 2, 5, 1000])
def test_bias_corrections_have_a_derivative(decay, count):
    def corrected(decay):
        return bias_correction(decay, jnp.int32(count), np.dtype('float64'))

    value, slope = jax.value_and_grad(corrected)(decay)
    np.testing.assert_allclose(value, 1 - decay**count, rtol=1e-12)
    expected = -count * decay ** (count - 1)
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ('schedule', 'expected'),
    [
        (schedules.inverse_decay(1.0, 1e-3), 1e3 / LAST),
        (schedules.halving(1.0, transition_steps=1), 0.0),
        (schedules.halving(1.0, transition_steps=LAST), 0.5),
        (schedules.triangular(0.0, 1.0, transition_steps=LAST), 1.0),
    ],
)
def test_schedules_go_on_to_the_last_step(schedule, expected):
    np.testing.assert_allclose(schedule(jnp.int32(LAST)), expected, rtol=1e-5)
