"""State in fewer bits: what is stored, and that nothing else is rounded."""

import json
import re
import statistics
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import resnet50

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffgradw,
    diffrgrad,
    mars,
    quantize_state,
    with_friction,
)
from diffgrad_optax.friction import dfc

pytestmark = pytest.mark.usefixtures('float32')

ROOT = Path(__file__).parent.parent
DTYPES = ('bfloat16', 'float16', 'float8_e5m2', 'float8_e4m3fn')
FIELDS = ('mu', 'nu', 'nu_max', 'prev_grad')
OPTIMIZERS = {
    'diffgrad': diffgrad,
    'diffgrad, nesterov': lambda rate, **kw: diffgrad(rate, nesterov=True, **kw),
    'diffgradw': diffgradw,
    'adadiff': adadiff,
    'adadiff, amsgrad': lambda rate, **kw: adadiff(rate, amsgrad=True, **kw),
    'diffrgrad': diffrgrad,
    'mars': mars,
}
PARAMS = {
    'w': jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(3, 4),
    'b': jnp.ones(2, jnp.float32),
}


def gradients(count=6):
    keys = jax.random.split(jax.random.key(0), count)
    return [
        jax.tree.map(
            lambda p, key=key: jax.random.normal(key, p.shape, p.dtype), PARAMS
        )
        for key in keys
    ]


def field(path):
    """The state field that an array is in, such as `nu`."""
    names = [getattr(key, 'name', None) for key in path]
    return next((name for name in reversed(names) if name in FIELDS), None)


def with_dtypes(state, dtypes):
    """`state` with the arrays of each field rounded to the field's dtype."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.astype(dtypes.get(field(path), leaf.dtype)), state
    )


@pytest.mark.parametrize(
    'dtype', [DTYPES[0], *(pytest.param(d, marks=pytest.mark.slow) for d in DTYPES[1:])]
)
@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('argument', ['mu_dtype', 'nu_dtype', 'prev_grad_dtype'])
def test_a_step_is_float32s_from_the_stored_state_to_the_stored_state(
    argument, name, dtype
):
    stored = argument.removesuffix('_dtype')
    dtypes = {stored: dtype, **({'nu_max': dtype} if stored == 'nu' else {})}
    exact = OPTIMIZERS[name](0.1)
    rounded = OPTIMIZERS[name](0.1, **{argument: dtype})
    state = rounded.init(PARAMS)
    chex.assert_trees_all_equal(state, with_dtypes(exact.init(PARAMS), dtypes))
    for grads in gradients():
        wide = with_dtypes(state, dict.fromkeys(FIELDS, jnp.float32))
        expected, expected_state = exact.update(grads, wide, PARAMS)
        updates, state = rounded.update(grads, state, PARAMS)
        chex.assert_trees_all_equal(updates, expected)
        chex.assert_trees_all_equal(state, with_dtypes(expected_state, dtypes))


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_all_of_the_state_in_8_bits_keeps_its_dtypes_in_a_scan(name):
    optimizer = OPTIMIZERS[name](
        0.1,
        mu_dtype='float8_e4m3fn',
        nu_dtype='float8_e5m2',
        prev_grad_dtype='float8_e5m2',
    )
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients())
    state = optimizer.init(PARAMS)

    def step(state, grads):
        updates, state = optimizer.update(grads, state, PARAMS)
        return state, updates

    final, updates = jax.lax.scan(step, state, grads)
    chex.assert_trees_all_equal_dtypes(final, state)
    chex.assert_trees_all_equal_dtypes(updates, grads)
    sizes = {leaf.dtype.itemsize for leaf in jax.tree.leaves(final) if leaf.ndim}
    assert sizes == {1}


@pytest.mark.parametrize('size', [1e-3, 300.0])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', [*OPTIMIZERS, 'quantize_state'])
def test_moments_in_float32_of_narrow_gradients_are_those_of_wide_ones(
    name, dtype, size
):
    if name == 'quantize_state':
        # Its state is float32 between reading and writing, whatever the gradients.
        optimizer = quantize_state(diffgrad(1.0), min_size=0, block_size=4)
    else:
        optimizer = OPTIMIZERS[name](1.0, mu_dtype='float32', nu_dtype='float32')
    params = {'w': PARAMS['w']}
    narrow_params = jax.tree.map(lambda p: p.astype(dtype), params)
    state, narrow_state = optimizer.init(params), optimizer.init(narrow_params)
    for grads in gradients():
        narrow = {'w': (size * grads['w']).astype(dtype)}
        wide = {'w': narrow['w'].astype(jnp.float32)}
        expected, state = optimizer.update(wide, state, params)
        updates, narrow_state = optimizer.update(narrow, narrow_state, narrow_params)
        assert updates['w'].dtype == dtype
        chex.assert_trees_all_close(
            jax.tree.map(lambda u: u.astype(jnp.float32), updates),
            expected,
            rtol=4 * float(jnp.finfo(dtype).eps),
            atol=4 * float(jnp.finfo(dtype).eps),  # Adam's whole step is 1
        )


@pytest.mark.parametrize('dtype', DTYPES)
@settings(deadline=None, max_examples=200)
@given(g=st.floats(-400, 400, width=32), q=st.floats(-400, 400, width=32))
def test_rounding_the_previous_gradient_moves_friction_by_a_quarter_of_it(dtype, g, q):
    grad, exact = jnp.float32(g), jnp.float32(q)
    stored = exact.astype(dtype).astype(jnp.float32)
    moved = abs(float(dfc(grad, stored)) - float(dfc(grad, exact)))
    # Beyond ¼ of the rounding, what float32 itself rounds: in the difference g - q,
    # and in σ.
    slack = 2.0**-24 * (abs(g) + abs(q)) + 3 * 2.0**-24
    assert moved <= 0.25 * abs(float(stored) - q) + slack


@pytest.mark.parametrize('dtype', DTYPES)
def test_rounding_that_friction_sees_at_its_steepest_moves_it_by_nearly_a_quarter(
    dtype,
):
    q = jnp.float32(1 + 0.45 * float(jnp.finfo(dtype).eps))
    stored = q.astype(dtype).astype(jnp.float32)
    moved = jnp.abs(dfc(q, stored) - dfc(q, q))
    assert 0.24 * jnp.abs(stored - q) < moved <= 0.25 * jnp.abs(stored - q) + 2.0**-24


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_complex_parameters_are_not_stored_in_a_real_first_moment(name):
    params = {'w': jnp.ones(2, jnp.complex64)}
    with pytest.raises(TypeError, match=r"mu_dtype=bfloat16 cannot hold .*\['w'\]"):
        OPTIMIZERS[name](0.1, mu_dtype='bfloat16').init(params)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_second_moments_of_complex_gradients_are_stored_in_a_real_dtype(name, dtype):
    params = {'w': jnp.ones(2, jnp.complex64), 'b': jnp.ones(2, 'bfloat16')}
    optimizer, exact = OPTIMIZERS[name](0.1, nu_dtype=dtype), OPTIMIZERS[name](0.1)
    state, exact_state = optimizer.init(params), exact.init(params)
    for size in (1.0, 0.3, -0.5):
        grads = {'w': size * jnp.array([1 + 1j, 2j]), 'b': params['b']}
        updates, state = optimizer.update(grads, state, params)
        expected, exact_state = exact.update(grads, exact_state, params)
        nu = optax.tree.get(state, 'nu')
        assert (nu['w'].dtype, nu['b'].dtype) == (dtype, dtype)
        tolerance = 1e-6 if dtype == 'float32' else 1e-2
        chex.assert_trees_all_close(updates['w'], expected['w'], rtol=tolerance)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_complex_dtype_stores_real_parameters_as_real(name):
    dtypes = dict.fromkeys(('mu_dtype', 'prev_grad_dtype'), 'complex64')
    params = {'real': jnp.ones(2, 'bfloat16'), 'other': jnp.ones(2, 'complex64')}
    optimizer = OPTIMIZERS[name](0.1, **dtypes)
    state = optimizer.init(params)
    for field in ('mu', 'prev_grad'):
        stored = optax.tree.get(state, field)
        assert (stored['real'].dtype, stored['other'].dtype) == ('float32', 'complex64')
    updates, _ = optimizer.update(params, state, params)
    assert updates['real'].dtype == 'bfloat16'


BYTES = {
    'optax.adam': optax.adam(1e-3),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype='bfloat16'),
    'diffgrad, 8-bit state': quantize_state(diffgrad(1e-3)),
}


@pytest.mark.parametrize('name', BYTES)
def test_bytes_per_parameter_are_those_in_the_readme(name):
    params = resnet50()
    state = jax.eval_shape(BYTES[name].init, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    nbytes = size / sum(leaf.size for leaf in params)
    readme = (ROOT / 'README.md').read_text()
    assert re.search(
        rf'^\| {re.escape(name)} +\| \**{nbytes:.2f}\** \|', readme, re.MULTILINE
    )


def accuracies(name, file):
    """Test accuracies in percent, by seed, of one optimizer in a recorded result."""
    runs = json.loads((ROOT / 'docs/results' / file).read_text())['runs']
    return {
        run['seed']: 100 * run['metrics'][-1]['test_accuracy']
        for run in runs
        if run['optimizer'] == name
    }


@pytest.mark.parametrize(
    ('file', 'seeds'), [('digits-8bit.json', 20), ('cifar10-jpeg-5000-8bit.json', 5)]
)
def test_recorded_8_bit_runs_end_within_a_standard_deviation(file, seeds):
    exact, quantized = (
        accuracies(name, file) for name in ('diffgrad', 'diffgrad+quantized')
    )
    assert set(exact) == set(quantized) == set(range(seeds))
    mean, deviation = statistics.mean(exact.values()), statistics.stdev(exact.values())
    assert abs(statistics.mean(quantized.values()) - mean) < deviation


@pytest.mark.parametrize(
    ('images', 'file', 'seeds'),
    [
        ('digits', 'digits-8bit.json', 5),
        ('digits', 'digits-8bit.json', 20),
        ('CIFAR-10 recompressed as JPEG, 5,000', 'cifar10-jpeg-5000-8bit.json', 5),
    ],
)
def test_accuracies_in_8_bits_are_those_of_the_page(images, file, seeds):
    cells = []
    for name in ('diffgrad+quantized', 'diffgrad'):
        by_seed = accuracies(name, file)
        values = [by_seed[seed] for seed in range(seeds)]
        cells.append(f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}')
    row = f'| {images} | {seeds} | {" | ".join(cells)} |\n'
    assert row in (ROOT / 'docs/performance.md').read_text()


@pytest.mark.parametrize('name', ['diffgrad', 'mars'])
def test_a_search_for_nans_finds_none_in_what_is_only_waited_for(name):
    # The bits of a bfloat16 number are more than float8_e4m3fn holds.
    optimizer = OPTIMIZERS[name](0.1, prev_grad_dtype='float8_e4m3fn')
    params = jnp.full((2, 3), 0.5, 'bfloat16')
    state = optimizer.init(params)
    with jax.debug_nans(True):
        optimizer.update(params, state, params)


def test_a_derivative_by_the_previous_gradient_passes_what_is_only_waited_for():
    """A root of zero, whose slope is infinite, is no part of what is kept."""
    inner = with_friction(optax.identity(), lambda g, q: jnp.sqrt(jnp.abs(g - q)))
    later = jnp.array([1.0, 4.0])

    def second_update(grad):
        _, state = inner.update(grad, inner.init(grad))
        update, _ = inner.update(later, state)
        return update.sum()

    # Of g √(g - q) by q at q = 0.
    slope = jax.grad(second_update)(jnp.zeros(2))
    chex.assert_trees_all_close(slope, -0.5 * jnp.sqrt(later))
