"""State in 8 bits: the code against its equations, and optimizers on top of it."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from jax.sharding import Mesh, PartitionSpec
from problems import resnet50

from diffgrad_optax import (
    dequantize_state,
    diffgrad,
    friction_coefficients,
    quantize_state,
    scale_by_diffgrad,
    with_friction,
)
from diffgrad_optax._quantize import codes as coding
from diffgrad_optax._quantize import dither

ROOT = Path(__file__).parent.parent
BLOCK = 16
TOPS = {'signed': 127, 'nonnegative': 255}
DTYPES = {'signed': jnp.int8, 'nonnegative': jnp.uint8}

kinds = pytest.mark.parametrize('kind', TOPS)
quickly = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
numbers = st.floats(-1.0, 1.0, width=32, allow_subnormal=False)
rows = st.lists(numbers, min_size=3 * BLOCK, max_size=3 * BLOCK)
steps = st.integers(0, 2**31 - 1)


def codes_and_scale(x, kind, count):
    scale = coding.block_scales(x, BLOCK, DTYPES[kind])
    r = dither.thresholds(dither.hash_places(x, 1), 2, count)
    return coding.encode(x, scale, r, DTYPES[kind]), scale


compiled_codes_and_scale = jax.jit(codes_and_scale, static_argnums=1)


def encode(x, kind, count=0):
    """Codes and scale; a mutant's are not compiled, or JAX would keep another's."""
    real = (coding.encode, dither.thresholds) == (ENCODE, THRESHOLDS)
    make = compiled_codes_and_scale if real else codes_and_scale
    return make(jnp.asarray(x, jnp.float32), kind, jnp.int32(count))


ENCODE, THRESHOLDS = coding.encode, dither.thresholds


def an_array(row, kind):
    x = np.array(row, 'float32').reshape(1, -1)
    return np.abs(x) if kind == 'nonnegative' else x


def normal(shape, seed=0):
    """Normal numbers whose sizes differ by a few factors of ten."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * np.exp(rng.normal(size=shape))
    return x.astype('float32')


# The code.


def assert_codes_are_those_of_the_equations(x, kind, count=0):
    codes, scale = map(np.asarray, encode(x, kind, count))
    decoded = np.asarray(coding.decode(jnp.asarray(codes), jnp.asarray(scale)))
    assert codes.shape == x.shape
    assert scale.shape == (*x.shape[:-1], x.shape[-1] // BLOCK)
    top = TOPS[kind]
    for *row, column in np.ndindex(x.shape):
        here = (*row, column)
        block = x[(*row, slice(column // BLOCK * BLOCK, column // BLOCK * BLOCK + 16))]
        a = float(np.abs(block).max())
        assert scale[(*row, column // BLOCK)] == a
        if a == 0.0:
            assert codes[here] == decoded[here] == 0.0
            continue
        s = float(x[here]) / a
        y = references.companded(s if kind == 'signed' else s**0.5, top)
        code = int(codes[here])
        # One of the two codes next to it, or the first for a small positive square.
        assert abs(code - y) < 1.0 or (code == 1 and kind == 'nonnegative')
        expected = references.level(code, a, top)
        assert decoded[here] == pytest.approx(expected, rel=1e-6)


@kinds
@quickly
@hypothesis.given(row=rows, count=steps)
def test_codes_are_those_of_the_equations(kind, row, count):
    assert_codes_are_those_of_the_equations(an_array(row, kind), kind, count)


def assert_error_is_bounded(kind):
    ramp = np.linspace(-1.0, 1.0, 64 * BLOCK)
    x = np.abs(ramp) if kind == 'nonnegative' else ramp
    x = x.reshape(64, BLOCK).astype('float32')
    x[:, 0] = 1.0
    root = np.sqrt if kind == 'nonnegative' else np.asarray
    bound = {'signed': 1 / 63, 'nonnegative': 1 / 127}[kind]
    worst = 0.0
    for count in range(20):
        decoded = np.asarray(coding.decode(*encode(x, kind, count)))
        assert np.all(decoded * x >= 0.0)
        worst = max(worst, np.abs(root(decoded) - root(x)).max())
    # And the bound is no larger than it must be.
    assert 0.9 * bound < worst < bound


@kinds
def test_error_is_bounded_and_no_sign_turns(kind):
    assert_error_is_bounded(kind)


@kinds
@quickly
@hypothesis.given(row=rows, other=rows, count=steps)
def test_a_larger_number_has_no_smaller_code(kind, row, other, count):
    x, y = an_array(row, kind), an_array(other, kind)
    x, y = np.minimum(x, y), np.maximum(x, y)
    x[:, ::BLOCK] = y[:, ::BLOCK] = 1.0
    less, more = (np.asarray(encode(z, kind, count)[0], int) for z in (x, y))
    assert np.all(less <= more)


def assert_codes_stay(kind):
    top = TOPS[kind]
    codes = np.arange(-top if kind == 'signed' else 0, top + 1)
    codes = np.pad(codes, (0, -len(codes) % 15)).reshape(-1, 15)
    codes = np.pad(codes, ((0, 0), (1, 0)), constant_values=top)
    codes = jnp.asarray(codes, DTYPES[kind])
    for seed, count in enumerate((0, 1, 7, 1000, 2**31 - 1)):
        scale = jnp.abs(jnp.asarray(normal((len(codes), 1), seed)))
        again = encode(coding.decode(codes, scale), kind, count)
        chex.assert_trees_all_equal(again, (codes, scale))


@kinds
def test_what_is_a_code_already_stays_one_at_every_step(kind):
    assert_codes_stay(kind)


@kinds
@quickly
@hypothesis.given(row=rows, exponent=st.integers(-60, 60), count=steps)
def test_powers_of_two_change_the_scale_alone(kind, row, exponent, count):
    # Clear of where float32 loses small numbers.
    x = an_array(row, kind)
    x = np.where(np.abs(x) < 2**-30, 0, x)
    codes, scale = encode(x, kind, count)
    scaled_codes, scaled = encode(x * np.float32(2.0**exponent), kind, count)
    np.testing.assert_array_equal(scaled_codes, codes)
    np.testing.assert_array_equal(scaled, scale * np.float32(2.0**exponent))


def assert_rounding_is_fair(kind):
    x = normal((4, 4 * BLOCK))
    x = np.abs(x) if kind == 'nonnegative' else x
    top = TOPS[kind]
    largest = np.repeat(np.abs(x).reshape(4, -1, BLOCK).max(-1), BLOCK, -1)
    # Signed numbers themselves, and the codes of the others.
    if kind == 'signed':
        below = np.floor(references.companded(np.abs(x) / largest, top))
        expected, gap = x, largest * (2 * below + 1) / top**2
    else:
        expected, gap = references.companded((x / largest) ** 0.5, top), 1.0
    mean = np.zeros(x.shape)
    for count in range(400):
        codes, scale = encode(x, kind, count)
        seen = coding.decode(codes, scale) if kind == 'signed' else codes
        mean += np.asarray(seen, float) / 400
    # Of the gap between two codes; random numbers would leave a twentieth.
    np.testing.assert_array_less(np.abs(mean - expected), 0.012 * gap)


@kinds
def test_rounding_is_fair_over_the_steps_at_every_element(kind):
    assert_rounding_is_fair(kind)


def correlation(x, y):
    return abs(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1])


def test_thresholds_of_places_arrays_and_parameters_are_unlike_each_other():
    shape = (64, 128)
    first, other = (dither.hash_places(jnp.zeros(shape), index) for index in (0, 1))
    r = np.asarray(dither.thresholds(first, 0, 0))
    counted, _ = np.histogram(r, 16, (0, 1))
    # Chance would give 512 ± 22.
    assert np.abs(counted - r.size / 16).max() < 75
    for neighbour in (r[1:], r[:, 1:], r[1:, 1:]):
        rows, columns = neighbour.shape
        assert correlation(r[:rows, :columns], neighbour) < 0.05
    for hashes, index in ((first, 1), (first, 2), (other, 0), (other, 1)):
        assert correlation(r, dither.thresholds(hashes, index, 0)) < 0.05


def test_thresholds_turn_by_the_golden_ratio():
    hashes = dither.hash_places(jnp.zeros((8, 128)), 0)
    r = [np.asarray(dither.thresholds(hashes, 3, count)) for count in (7, 8)]
    turn = (r[1] - r[0]) % 1.0
    np.testing.assert_allclose(turn, (5**0.5 - 1) / 2, atol=2.0**-20)


def test_thresholds_are_unlike_those_at_any_distance():
    hashes = dither.hash_places(jnp.zeros((512, 512)), 0)
    for field in range(4):
        r = np.asarray(dither.thresholds(hashes, field, 0)) - 0.5
        power = np.abs(np.fft.rfft2(r)) ** 2
        beside = np.fft.irfft2(power) / np.sum(r * r)
        # Among so many distances chance would leave one of 5 standard deviations.
        assert np.abs(beside.flat[1:]).max() < 8 / 512


def assert_positive_stays_positive():
    x = np.full((1, 2 * BLOCK), 1e-20, 'float32')
    x[:, 0] = 1.0
    x[:, 1] = 0.0
    for factor in (1.0, 1e6):
        # Numbers whose part of the largest is below float32's normal ones, too.
        x[:, 0] *= factor
        decoded = coding.decode(*encode(np.where(x < 1, x * 1e-13, x), 'nonnegative'))
        np.testing.assert_array_equal(decoded > 0, x > 0)


def test_a_positive_second_moment_is_never_stored_as_zero():
    assert_positive_stays_positive()


@pytest.mark.parametrize(
    ('kind', 'bad'),
    [
        *((kind, bad) for kind in TOPS for bad in (np.nan, np.inf)),
        ('signed', -np.inf),
        ('nonnegative', -1e-3),
    ],
)
def test_a_block_with_a_number_it_cannot_hold_is_not_finite(kind, bad):
    x = np.abs(normal((1, 3 * BLOCK)))
    x[0, BLOCK + 3] = bad
    decoded = coding.decode(*encode(x, kind))
    spoilt = np.arange(3 * BLOCK) // BLOCK == 1
    np.testing.assert_array_equal(np.isfinite(decoded[0]), ~spoilt)


@kinds
@pytest.mark.parametrize('block', [128, 256, 512, 4096])
def test_nan_spoils_a_block_of_any_size(kind, block):
    """XLA:CPU overlooks it in a long row of floats, and in a large array."""
    x = np.abs(normal((8, 2 * block)))
    x[:, block + 3] = np.nan
    scale = coding.block_scales(jnp.asarray(x), block, DTYPES[kind])
    np.testing.assert_array_equal(np.isnan(scale), [[False, True]] * 8)


def test_nan_in_a_gradient_spoils_its_block_of_every_array():
    optimizer = quantize_state(diffgrad(1e-3))
    grads = jnp.ones((8, 4096), jnp.float32).at[:, 5].set(jnp.nan)
    _, state = jax.jit(optimizer.update)(grads, optimizer.init(jnp.zeros_like(grads)))
    spoilt = np.broadcast_to(np.arange(4096) < 128, grads.shape)
    arrays = [leaf for leaf in jax.tree.leaves(dequantize_state(state)) if leaf.ndim]
    assert len(arrays) == 3
    for array in arrays:
        np.testing.assert_array_equal(np.isnan(array), spoilt)


def test_a_number_rounded_above_its_scale_has_the_largest_code():
    x = jnp.asarray([[0.5, 1.0, -1.0, *[0.25] * (BLOCK - 3)]])
    scale = 0.9 * coding.block_scales(x, BLOCK, jnp.int8)
    codes = coding.encode(x, scale, jnp.full(x.shape, 0.5), jnp.int8)
    assert [int(code) for code in codes[0, 1:3]] == [127, -127]


@kinds
def test_codes_of_a_large_array_are_those_of_its_rows(kind):
    # A GPU has other kernels for it, which compute and store several at a time.
    x = normal((512, 1024))
    x = jnp.asarray(np.abs(x) if kind == 'nonnegative' else x)
    r = jax.random.uniform(jax.random.key(0), x.shape, jnp.float32, 2.0**-23)
    scale = coding.block_scales(x, 128, DTYPES[kind])
    codes = coding.encode(x, scale, r, DTYPES[kind])
    decoded = coding.decode(codes, scale)
    assert len(np.unique(codes)) > 100
    for i in range(0, 512, 64):
        row = slice(i, i + 1)
        alone = coding.encode(x[row], scale[row], r[row], DTYPES[kind])
        chex.assert_trees_all_equal(
            (scale[row], codes[row], decoded[row]),
            (
                coding.block_scales(x[row], 128, DTYPES[kind]),
                alone,
                coding.decode(alone, scale[row]),
            ),
        )


@kinds
def test_a_block_with_infinity_is_nan_as_a_whole(kind):
    x = jnp.ones((1, 3 * BLOCK), jnp.float32).at[0, BLOCK].set(jnp.inf)
    decoded = np.asarray(coding.decode(*encode(x, kind, 1)))[0]
    spoilt = np.arange(3 * BLOCK) // BLOCK == 1
    np.testing.assert_array_equal(np.isnan(decoded), spoilt)


@kinds
def test_codes_come_from_a_choice_of_integers(kind):
    # Bits of a float that are stored as a byte may be taken for the float.
    x = jnp.ones((1, BLOCK), jnp.float32)
    program = coding.encode.lower(x, x[:, :1], x, DTYPES[kind]).compile().as_text()
    byte = {'signed': 's8', 'nonnegative': 'u8'}[kind]
    (made,) = re.findall(rf'= {byte}\[\S+ convert\((\S+)\)', program)
    assert re.search(rf'{re.escape(made)} = s32\[\S+ select\(', program)


@kinds
@pytest.mark.parametrize(
    'end', [np.finfo('float32').max, 2 * np.finfo('float32').tiny], ids=['max', 'tiny']
)
def test_codes_are_the_same_at_the_ends_of_float32s_range(kind, end):
    x = np.linspace(0.5, 1, BLOCK, dtype='float32').reshape(1, -1)
    np.testing.assert_array_equal(encode(end * x, kind)[0], encode(x, kind)[0])


@kinds
def test_numbers_below_float32s_normal_ones_are_finite(kind):
    for x in (np.zeros((1, BLOCK)), np.full((1, BLOCK), 1e-40)):
        chex.assert_tree_all_finite(coding.decode(*encode(x, kind)))


# Mutants of the code: each claim fails for one.


def threshold(monkeypatch, r):
    monkeypatch.setattr(
        dither,
        'thresholds',
        lambda hashes, index, count: jnp.full(hashes.shape, r, jnp.float32),
    )


def not_companded(monkeypatch):
    def decode(codes, scale):
        top = np.iinfo(codes.dtype).max
        s = codes / top
        return (s * s if top == 255 else s) * coding._spread(scale, codes.shape)

    monkeypatch.setattr(coding, 'decode', decode)


def zero_allowed(monkeypatch):
    monkeypatch.setattr(coding, 'encode', ENCODE.__wrapped__)
    monkeypatch.setattr(jnp, 'maximum', lambda x, y: x)


def along_the_first_axis(monkeypatch):
    def encode(x, scale, r, dtype):
        return ENCODE(x.T, coding.block_scales(x.T, BLOCK, dtype), r.T, dtype).T

    monkeypatch.setattr(coding, 'encode', encode)


@kinds
@pytest.mark.parametrize('mutant', [not_companded, along_the_first_axis])
def test_the_equations_fail_for_a_mutant(mutant, kind, monkeypatch):
    mutant(monkeypatch)
    x = normal((BLOCK, BLOCK))
    with pytest.raises(AssertionError):
        assert_codes_are_those_of_the_equations(np.abs(x), kind)


@kinds
def test_fairness_fails_for_the_nearest_code(kind, monkeypatch):
    threshold(monkeypatch, 0.5)
    with pytest.raises(AssertionError, match='Mismatched'):
        assert_rounding_is_fair(kind)


def test_positivity_fails_where_zero_is_allowed(monkeypatch):
    zero_allowed(monkeypatch)
    with pytest.raises(AssertionError, match='Mismatched'):
        assert_positive_stays_positive()


@kinds
@pytest.mark.parametrize('r', [2.0**-23, 1 - 2.0**-23])
def test_codes_stay_at_the_thresholds_next_to_zero_and_one(kind, r, monkeypatch):
    threshold(monkeypatch, r)
    assert_codes_stay(kind)


@kinds
@pytest.mark.parametrize('r', [2.0**-23, 1 - 2.0**-23])
def test_codes_move_for_thresholds_that_are_not_kept_clear(kind, r, monkeypatch):
    threshold(monkeypatch, r)
    monkeypatch.setattr(coding, 'encode', ENCODE.__wrapped__)
    monkeypatch.setattr(dither, '_CLEARANCE', 0.0)
    with pytest.raises(AssertionError):
        assert_codes_stay(kind)


# What is stored in 8 bits, and what is not.


@pytest.fixture
def params(float32):
    return {
        'w': jnp.zeros((32, 128)),
        'odd': jnp.zeros((4096, 10)),
        'narrow': jnp.zeros((512, 24)),
        'small': jnp.zeros(128),
        'half': jnp.zeros((64, 192), jnp.bfloat16),
    }


@pytest.mark.usefixtures('float32')
def test_diffgrads_state_for_resnet50_is_3_2_bytes_per_parameter_or_less():
    shapes = resnet50()
    state = jax.eval_shape(quantize_state(diffgrad(1e-3)).init, shapes)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size / count <= 3.2


def test_large_arrays_with_an_axis_of_whole_blocks_are_stored_in_8_bits(params):
    state = quantize_state(optax.adam(0.1)).init(params)
    (adam, _), (scales, _) = state.inner_state, state.scales
    for moment, twin, dtype in (
        (adam.mu, scales.mu, jnp.int8),
        (adam.nu, scales.nu, jnp.uint8),
    ):
        assert {name: codes.shape for name, codes in moment.items()} == {
            name: p.shape for name, p in params.items()
        }
        for name, shape in {'w': (32, 1), 'half': (64, 3)}.items():
            assert (moment[name].dtype, twin[name].dtype) == (dtype, jnp.float32)
            assert twin[name].shape == shape
        # 24 and 128 have a divisor of 8, 10 and 128 of 2.
        for name in ('odd', 'narrow', 'small'):
            assert moment[name].dtype == params[name].dtype
            assert twin[name] is None
    assert adam.count.shape == () and scales.count is None


@pytest.mark.parametrize('dtype', ['float64', 'complex64', 'float8_e4m3fn', 'int32'])
def test_other_types_stay_exact(dtype):
    params = jnp.zeros((32, 128), dtype)
    state = quantize_state(optax.trace(0.9)).init(params)
    assert state.inner_state.trace.dtype == dtype
    assert jax.tree.leaves(state.scales) == []


@pytest.mark.parametrize('inner', [optax.adam(0.1), diffgrad(0.1)])
def test_parameters_that_stay_exact_step_as_without_codes(inner):
    params = {
        'narrow': jnp.ones((32, 128), 'float8_e4m3fn'),
        'complex': jnp.full((32, 128), 1 + 1j, 'complex64'),
    }
    optimizer = quantize_state(inner)
    state, exact = optimizer.init(params), inner.init(params)
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
        expected, exact = inner.update(params, exact, params)
    chex.assert_trees_all_equal((updates, state.inner_state), (expected, exact))


def test_8_bit_gradients_of_what_is_stored_in_codes_are_widened():
    params = jnp.ones((32, 128), 'float32')
    optimizer = quantize_state(diffgrad(0.1, prev_grad_dtype='float8_e4m3fn'))
    states = []
    for dtype in ('float32', 'float8_e4m3fn'):
        grads = jnp.full(params.shape, 0.5, dtype)
        updates, state = optimizer.update(grads, optimizer.init(params))
        assert updates.dtype == dtype
        states.append(state)
    chex.assert_trees_all_equal(*states)


def test_an_inner_state_of_python_numbers_stays_arrays():
    inner = optax.GradientTransformation(
        lambda params: jnp.float32(1.0), lambda updates, state, params: (updates, 2.0)
    )
    for optimizer in (quantize_state(inner), with_friction(inner)):
        _, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        assert state.inner_state.dtype == jnp.float32 and state.inner_state == 2.0


def test_names_decide_only_outside_of_the_parameters(params):
    # A parameter may be called like a moment.
    class Model(optax.ScaleByAdamState):
        pass

    model = Model(count=params['small'], mu=params['w'], nu=params['w'])
    inner_state = quantize_state(optax.adam(0.1)).init(model).inner_state[0]
    assert inner_state.mu.nu.dtype == jnp.int8
    assert inner_state.nu.mu.dtype == jnp.uint8


def test_names_are_those_of_the_state_where_a_layer_is_called_like_a_moment(params):
    class Layer(NamedTuple):
        w: jax.Array

    class Model(NamedTuple):
        w: jax.Array
        nu: Layer

    model = Model(params['w'], Layer(params['w']))
    inner_state = quantize_state(optax.adam(0.1)).init(model).inner_state[0]
    assert inner_state.mu.w.dtype == inner_state.mu.nu.w.dtype == jnp.int8
    assert inner_state.nu.w.dtype == inner_state.nu.nu.w.dtype == jnp.uint8


def test_copies_of_parameters_stay_exact(params):
    wrapped = quantize_state(optax.contrib.schedule_free(optax.sgd(1.0), 1.0, 0.9))
    state = wrapped.init({'w': params['w'] + 0.3})
    np.testing.assert_array_equal(state.inner_state.z['w'], params['w'] + 0.3)


def test_what_optax_takes_differences_of_stays_exact(params):
    # Numbers of all sizes: a block of equal ones would be exact in 8 bits too.
    size = params['w'].size
    params = {'w': jnp.sin(jnp.arange(1.0, size + 1)).reshape(params['w'].shape)}
    for inner in (
        optax.contrib.sam(optax.sgd(0.0), optax.sgd(0.05), sync_period=2),
        optax.scale_by_lbfgs(),
    ):
        wrapped = quantize_state(inner)
        exact, state = inner.init(params), wrapped.init(params)
        point = params
        for factor in (1.0, -2.0, 0.5):
            grads = {'w': factor * params['w'] + point['w'] ** 2}
            expected, exact = inner.update(grads, exact, point)
            updates, state = wrapped.update(grads, state, point)
            chex.assert_trees_all_equal(updates, expected)
            point = {'w': point['w'] + 0.1 * grads['w']}


def test_the_gradient_that_a_line_search_hands_on_stays_exact(params):
    state = quantize_state(optax.lbfgs()).init({'w': params['w']})
    assert optax.tree.get(state.inner_state, 'grad')['w'].dtype == jnp.float32


def test_a_block_may_be_shorter_than_16_if_it_is_asked_for(params):
    shapes = {'w': (4, 24), 'odd': (4, 4), 'empty': (0,)}
    params = {
        name: params['w'].flatten()[: math.prod(n)].reshape(n)
        for name, n in shapes.items()
    }
    wrapped = quantize_state(optax.trace(0.9), block_size=8, min_size=0)
    state = wrapped.init(params)
    dtypes = {name: x.dtype for name, x in state.inner_state.trace.items()}
    assert dtypes == {'w': jnp.int8, 'odd': jnp.float32, 'empty': jnp.float32}
    assert state.scales.trace['w'].shape == (4, 3)
    chex.assert_trees_all_equal_shapes(wrapped.update(params, state), (params, state))


def test_names_can_be_given(params):
    named = quantize_state(optax.adam(0.1), nonnegative=('mu',), exact=['nu'])
    adam = named.init({'w': params['w']}).inner_state[0]
    assert (adam.mu['w'].dtype, adam.nu['w'].dtype) == (jnp.uint8, jnp.float32)


def kept_in_a_dict(inner):
    """`inner`, whose state is a dict and no NamedTuple."""

    def update(updates, state, params=None):
        updates, state = inner.update(updates, optax.ScaleByAdamState(**state), params)
        return updates, state._asdict()

    return optax.GradientTransformation(lambda p: inner.init(p)._asdict(), update)


def test_a_state_in_a_dict_steps_like_one_in_a_named_tuple():
    x = jnp.broadcast_to(jnp.logspace(-3, 0, 128, dtype=jnp.float32), (64, 128))
    optimizers = [
        quantize_state(inner)
        for inner in (optax.scale_by_adam(), kept_in_a_dict(optax.scale_by_adam()))
    ]
    states = [optimizer.init(x) for optimizer in optimizers]
    assert states[1].inner_state['nu'].dtype == jnp.uint8
    for key in jax.random.split(jax.random.key(0), 50):
        grads = x * jax.random.normal(key, x.shape, jnp.float32)
        steps, states = zip(
            *(
                jax.jit(optimizer.update)(grads, state)
                for optimizer, state in zip(optimizers, states, strict=True)
            ),
            strict=True,
        )
        chex.assert_trees_all_equal(*steps)
        assert jnp.abs(steps[1]).max() < 4
    exact = quantize_state(kept_in_a_dict(optax.scale_by_adam()), exact=['mu'])
    assert exact.init(x).inner_state['mu'].dtype == jnp.float32


@pytest.mark.parametrize('argument', ['nonnegative', 'exact'])
def test_names_that_no_field_has_are_refused(argument, params):
    misspelled = quantize_state(optax.adam(0.1), **{argument: ('nu', 'un')})
    message = f"{argument} names 'un', but .* has only the fields count, mu, nu"
    with pytest.raises(ValueError, match=message):
        misspelled.init(params)
    # Neither a layer of this name nor a default is the field of a state.
    with pytest.raises(ValueError, match=message):
        misspelled.init({'un': params['w']})
    default = {'nonnegative': 'gains', 'exact': 'z'}[argument]
    quantize_state(optax.adam(0.1), **{argument: ('nu', default)}).init(params)


@pytest.mark.parametrize('params', [{}, {'w': optax.MaskedNode()}, {'w': None}])
def test_names_are_known_where_no_parameter_is(params):
    quantize_state(optax.adafactor(), nonnegative=('v',)).init(params)


def test_a_running_state_goes_into_8_bits_and_back(params):
    inner = optax.adam(0.1)
    _, state = inner.update(params, inner.init(params))
    resumed = quantize_state(inner._replace(init=lambda params: state), min_size=0)
    quantized = resumed.init(params)
    chex.assert_trees_all_equal_structs(
        quantized, quantize_state(inner, min_size=0).init(params)
    )
    back = dequantize_state((quantized, optax.EmptyState()))[0]
    assert back[0].mu['w'].dtype == back[0].mu['half'].dtype == jnp.float32
    chex.assert_trees_all_close(
        optax.tree.cast_like(back, state), state, rtol=0.02, atol=1e-6
    )
    chex.assert_trees_all_equal(dequantize_state(state), state)


# Optimizers.


def gradients(count, shape=(8, 128)):
    """Half of the elements fall to a hundredth of their size on the way."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(size=shape))
    for t in range(count):
        falls = np.where(np.arange(shape[-1]) % 2, 1.0, 0.01 if t > count // 4 else 1)
        yield jnp.asarray(rng.normal(size=shape) * size * falls, jnp.float32)


def assert_moments_shrink(kind):
    """By 1/10,000 a step, from small parts of their block's largest number."""
    decay = 0.9999
    inner = optax.scale_by_rms(decay) if kind == 'nonnegative' else optax.ema(decay)
    opt = quantize_state(inner, min_size=0)
    name, small = {'nonnegative': ('nu', 8), 'signed': ('ema', 4)}[kind]
    # One number of each block stays the largest.
    grads = jnp.zeros((16, 128), jnp.float32).at[:, 0].set(1.0)
    codes = jnp.full(grads.shape, small, DTYPES[kind]).at[:, 0].set(TOPS[kind])
    state = opt.init(grads)
    state = state._replace(
        inner_state=state.inner_state._replace(**{name: codes}),
        scales=state.scales._replace(**{name: jnp.ones((16, 1), jnp.float32)}),
    )

    @jax.jit
    def run(state):
        return jax.lax.fori_loop(
            0, 2000, lambda _, state: opt.update(grads, state)[1], state
        )

    before, after = (
        np.asarray(optax.tree.get(dequantize_state(s), name)[:, 1:]).mean()
        for s in (state, run(state))
    )
    np.testing.assert_allclose(after / before, decay**2000, rtol=0.05)


@kinds
def test_small_moments_shrink_where_a_step_changes_them_by_less_than_a_code(kind):
    assert_moments_shrink(kind)


@kinds
def test_small_moments_do_not_shrink_with_thresholds_of_11_bits(kind, monkeypatch):
    def coarse(hashes, field, count):
        r = THRESHOLDS(hashes, field, count)
        return (jnp.floor(2**11 * r) + 0.5) / 2**11

    monkeypatch.setattr(dither, 'thresholds', coarse)
    with pytest.raises(AssertionError):
        assert_moments_shrink(kind)


def assert_steps_stay_close(count=2000, **names):
    exact = scale_by_diffgrad()
    quantized = quantize_state(exact, min_size=0, **names)
    update, exact_update = jax.jit(quantized.update), jax.jit(exact.update)
    params = jnp.zeros((8, 128), jnp.float32)
    state, exact_state = quantized.init(params), exact.init(params)
    steps, expected = [], []
    for grads in gradients(count):
        u, state = update(grads, state)
        v, exact_state = exact_update(grads, exact_state)
        steps.append(np.asarray(u))
        expected.append(np.asarray(v))
    quarters = (np.split(np.array(s), 4) for s in (steps, expected))
    for u, v in zip(*quarters, strict=True):
        cosine = (u * v).sum() / np.linalg.norm(u) / np.linalg.norm(v)
        assert cosine > 0.99
        assert np.linalg.norm(u - v) < 0.1 * np.linalg.norm(v)


def test_steps_stay_close_to_those_of_exact_state():
    assert_steps_stay_close()


def test_steps_do_not_stay_close_with_the_nearest_code(monkeypatch):
    threshold(monkeypatch, 0.5)
    with pytest.raises(AssertionError):
        assert_steps_stay_close()


def test_steps_do_not_stay_close_with_second_moments_as_signed_numbers():
    with pytest.raises(AssertionError):
        assert_steps_stay_close(nonnegative=())


@pytest.mark.parametrize(('factor', 'off'), [(1e2, 0.09), (1e4, 0.4)])
def test_steps_are_off_by_what_the_docstring_says(factor, off):
    exact = scale_by_diffgrad()
    quantized = quantize_state(exact, min_size=0)
    rng = np.random.default_rng(0)
    size = jnp.asarray(factor ** rng.uniform(-1, 0, (16, 128)), jnp.float32)

    def step(states, key):
        grads = size * jax.random.normal(key, size.shape, size.dtype)
        v, exact_state = exact.update(grads, states[0])
        u, state = quantized.update(grads, states[1])
        return (exact_state, state), jnp.linalg.norm(u - v) / jnp.linalg.norm(v)

    states = exact.init(size), quantized.init(size)
    keys = jax.random.split(jax.random.key(0), 1000)
    _, errors = jax.jit(lambda states: jax.lax.scan(step, states, keys))(states)
    np.testing.assert_allclose(errors[500:].mean(), off, rtol=0.1)


def test_compiled_codes_are_the_eager_ones_but_for_a_few():
    opt = quantize_state(scale_by_diffgrad(), min_size=0)
    state = compiled = opt.init(jnp.zeros((8, 128), jnp.float32))
    for grads in gradients(5):
        _, state = opt.update(grads, state)
        _, compiled = jax.jit(opt.update)(grads, compiled)
    for eager, jitted in zip(*map(jax.tree.leaves, (state, compiled)), strict=True):
        # Where a threshold lies between two roundings of float32.
        assert np.mean(np.asarray(eager) != np.asarray(jitted)) < 0.01 or (
            eager.dtype == jnp.float32
        )


def test_equal_numbers_of_two_arrays_or_two_parameters_are_rounded_apart():
    (grads,) = gradients(1)
    opt = quantize_state(scale_by_diffgrad(b1=0.0), min_size=0)
    tree = {'a': grads, 'b': grads}
    _, state = opt.update(tree, opt.init(tree))
    inner = state.inner_state
    chex.assert_trees_all_equal(state.scales.prev_grad, state.scales.inner_state.mu)
    for one, other in (
        (inner.prev_grad['a'], inner.inner_state.mu['a']),
        (inner.prev_grad['a'], inner.prev_grad['b']),
        (inner.inner_state.nu['a'], inner.inner_state.nu['b']),
    ):
        # Both round up, or both down, in half of the places.
        assert 0.4 < np.mean(one == other) < 0.8


def test_an_untouched_state_does_not_drift():
    frozen = optax.conditionally_transform(
        scale_by_diffgrad(), lambda step, live: live, forward_extra_args=True
    )
    opt = quantize_state(frozen, min_size=0)
    first, second = gradients(2)
    _, state = opt.update(first, opt.init(first), live=True)
    later = state
    for _ in range(5):
        _, later = opt.update(second, later, live=False)
    assert later.count == 6
    chex.assert_trees_all_equal(later.scales, state.scales)
    chex.assert_trees_all_equal(
        later.inner_state.inner_state, state.inner_state.inner_state
    )


def test_a_new_learning_rate_compiles_nothing():
    traces = 0
    injected = optax.inject_hyperparams(diffgrad)(learning_rate=0.1)
    opt = quantize_state(injected, min_size=0)

    @jax.jit
    def update(grads, state):
        nonlocal traces
        traces += 1
        return opt.update(grads, state)

    (grads,) = gradients(1)
    state = opt.init(grads)
    updates, _ = update(grads, state)
    halved = optax.tree.set(
        state,
        lambda path, value: value is not None,
        learning_rate=jnp.asarray(0.05, jnp.float32),
    )
    half, _ = update(grads, halved)
    np.testing.assert_allclose(half, updates / 2, rtol=1e-6)
    assert traces == 1


def test_friction_coefficients_are_read_through_the_codes():
    first, second = gradients(2)
    state = quantize_state(diffgrad(0.1), min_size=0).init(first)
    _, state = quantize_state(diffgrad(0.1), min_size=0).update(first, state)
    stored = dequantize_state(state)[0].prev_grad
    np.testing.assert_allclose(stored, first, atol=np.abs(first).max() / 63)
    expected = 1 / (1 + np.exp(-np.abs(np.float64(stored) - second)))
    coefficients = friction_coefficients(second, optax.MaskedState(state), 'dfc')
    np.testing.assert_allclose(coefficients, expected, rtol=1e-6)


def test_each_device_may_have_a_count_of_its_own():
    optimizer = quantized_diffgrad()
    grads = jnp.ones((1, 8, 128), jnp.float32)
    update = jax.vmap(optimizer.update)
    on_devices = jax.shard_map(
        update,
        mesh=Mesh(jax.devices()[:1], 'x'),
        in_specs=PartitionSpec('x'),
        out_specs=PartitionSpec('x'),
    )
    args = grads, jax.vmap(optimizer.init)(grads)
    chex.assert_trees_all_equal(jax.jit(on_devices)(*args), jax.jit(update)(*args))


def test_extra_arguments_reach_the_inner_transformation():
    def update(updates, state, params=None, *, factor):
        return updates * factor, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    opt = quantize_state(inner)
    updates, _ = opt.update(jnp.ones(2), opt.init(jnp.ones(2)), factor=3.0)
    np.testing.assert_array_equal(updates, [3.0, 3.0])


def test_narrow_gradients_are_widened_and_their_updates_narrow():
    (wide,) = gradients(1)
    grads = wide.astype(jnp.bfloat16)
    opt = quantize_state(scale_by_diffgrad(), min_size=0)
    state, exact = opt.init(grads), opt.init(wide)
    updates, state = opt.update(grads, state)
    expected, exact = opt.update(grads.astype(jnp.float32), exact)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, expected.astype(jnp.bfloat16))
    chex.assert_trees_all_equal(state, exact)


@pytest.mark.usefixtures('float32')
def test_numpy_gradients_are_float32_without_a_warning(params):
    wrapped = quantize_state(optax.adam(0.1))
    grads = jax.tree.map(lambda p: np.ones(p.shape, 'float64'), params)
    updates, _ = wrapped.update(grads, wrapped.init(params))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {np.dtype('float32')}


def test_gradients_of_each_example_leave_the_state_its_shapes(params):
    inner = optax.chain(
        optax.contrib.differentially_private_aggregate(1.0, 0.0, 0),
        optax.scale_by_adam(),
    )
    wrapped = quantize_state(inner)
    grads = jax.tree.map(lambda p: jnp.stack([jnp.ones_like(p)] * 3), params)
    state = wrapped.init(params)
    updates, new_state = wrapped.update(grads, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_trees_all_equal_shapes(updates, params)


def test_gradients_of_other_shapes_are_refused(params):
    wrapped = quantize_state(optax.scale_by_adam())
    grads = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    refusal = r"state \.mu\['.* from \(.* to \(2, .*call init"
    with (
        jax.numpy_rank_promotion('allow'),
        pytest.raises(ValueError, match=refusal),
    ):
        wrapped.update(grads, wrapped.init(params))


def test_no_nan_is_computed_from_numbers(params):
    wrapped = quantize_state(optax.scale_by_adam())
    with jax.debug_nans(True), jax.disable_jit():
        state = wrapped.init(params)
        _, state = wrapped.update(jax.tree.map(jnp.ones_like, params), state)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(dequantize_state(state)))


def test_inner_arithmetic_promotes_no_dtype():
    params = jnp.zeros((8, 128), jnp.float32)
    with jax.numpy_dtype_promotion('strict'):
        opt = quantize_state(optax.trace(0.9), min_size=0)
        state = opt.init(params)
        for grads in gradients(2):
            _, state = opt.update(grads, state)


# Checkpoints.


def test_run_from_a_checkpoint_is_the_uninterrupted_one_to_the_bit(tmp_path):
    ocp = pytest.importorskip(
        'orbax.checkpoint', reason='orbax is in the extra examples'
    )
    opt = quantize_state(diffgrad(0.1), min_size=0)
    first, second = gradients(2)
    _, state = opt.update(
        {'w': first, 'b': first[0, :3]},
        opt.init(tree := {'w': first, 'b': first[0, :3]}),
    )
    with ocp.StandardCheckpointer() as checkpoints:
        checkpoints.save(tmp_path / 'state', state)
        checkpoints.wait_until_finished()
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, opt.init(tree))
        restored = checkpoints.restore(tmp_path / 'state', target)
    grads = {'w': second, 'b': second[0, :3]}
    chex.assert_trees_all_equal(opt.update(grads, restored), opt.update(grads, state))


# Refusals.


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'inner': optax.adam}, TypeError, 'inner must be an optax transformation'),
        (
            {'inner': optax.MultiSteps(optax.adam(1e-3), 2)},
            TypeError,
            r'what its gradient_transformation\(\) returns',
        ),
        ({'block_size': 0}, ValueError, 'block_size must be an integer >= 1, got 0'),
        ({'block_size': 64.0}, TypeError, 'block_size must be an integer .* 64.0'),
        ({'block_size': True}, TypeError, 'block_size must be an integer .* True'),
        ({'min_size': -1}, ValueError, 'min_size must be an integer >= 0, got -1'),
        (
            {'nonnegative': 'nu'},
            TypeError,
            "nonnegative must be a tuple or list .* 'nu'",
        ),
        ({'exact': (1,)}, TypeError, r'exact must be a tuple or list .* \(1,\)'),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        quantize_state(**{'inner': optax.identity(), **arguments})


@pytest.mark.parametrize(
    'scales',
    [
        lambda params: None,
        lambda params: (),
        lambda params: {'other': 1},
        lambda params: quantize_state(optax.adam(0.1), min_size=0).init(params).scales,
        lambda params: quantized_diffgrad().init({'v': params['w']}).scales,
    ],
    ids=['None', 'empty', 'dict', 'of Adam', 'of another parameter'],
)
def test_codes_are_not_read_without_their_scales(scales):
    params = {'w': jnp.ones(32, jnp.float32)}
    state = quantized_diffgrad().init(params)
    with pytest.raises(ValueError, match='do not fit the inner_state'):
        quantized_diffgrad().update(params, state._replace(scales=scales(params)))


def test_optax_sets_what_is_exact_where_it_is_told_to_look():
    params = {'w': jnp.ones(32, jnp.float32)}
    inner = optax.inject_hyperparams(diffgrad)(learning_rate=0.1)
    optimizer = quantize_state(inner, min_size=0)
    state = optimizer.init(params)
    mistaken = optax.tree.set(state, learning_rate=0.2)
    with pytest.raises(
        ValueError, match=r"'learning_rate'\], where inner_state has no"
    ):
        optimizer.update(params, mistaken)

    def is_there(path, x):
        return x is not None

    doubled = optax.tree.set(state, is_there, learning_rate=0.2)
    updates, _ = optimizer.update(params, doubled)
    halves, _ = optimizer.update(params, state)
    np.testing.assert_allclose(updates['w'], 2 * halves['w'], rtol=1e-6)


def test_what_changes_the_tree_of_its_state_goes_outside():
    params = {'w': jnp.ones(32, jnp.float32)}
    monitor = optax.monitor(
        {'norm': lambda updates, *_, **__: optax.tree.norm(updates)}
    )
    inside = quantize_state(optax.chain(monitor, diffgrad(0.1)), min_size=0)
    with pytest.raises(
        ValueError,
        match=r"made: an array instead of nothing at \[0\]\.measurements\['norm'\]",
    ):
        inside.update(params, inside.init(params))
    outside = optax.chain(monitor, quantized_diffgrad())
    state = outside.init(params)
    for _ in range(2):
        _, state = outside.update(params, state)
    assert state[0].measurements['norm'] == jnp.sqrt(32)


def test_inner_state_of_other_containers_is_refused_too():
    def update(updates, state, params=None):
        return updates, tuple(state)

    inner = optax.GradientTransformation(lambda params: [params], update)
    optimizer = quantize_state(inner, min_size=0)
    params = jnp.ones(32, jnp.float32)
    with pytest.raises(ValueError, match=r'another tree .* init made: .*list'):
        optimizer.update(params, optimizer.init(params))


def test_an_array_whose_last_axis_is_symbolic_stays_exact():
    optimizer = quantized_diffgrad()

    def two_steps(params):
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(params, state)
        return updates, state.inner_state

    (n,) = jax.export.symbolic_shape('n')
    export = jax.export.export(jax.jit(two_steps))
    exported = export(jax.ShapeDtypeStruct((64, n), jnp.float32))
    assert all(array.dtype != jnp.int8 for array in exported.out_avals)
    # Others are coded as always.
    exported = export(jax.ShapeDtypeStruct((n, 64), jnp.float32))
    assert sum(array.dtype == jnp.int8 for array in exported.out_avals) == 2


def quantized_diffgrad():
    return quantize_state(diffgrad(0.1), min_size=0)
