"""Each schedule against its formula in plain Python, traced and untraced."""

import inspect
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checks import NO_NUMBERS, NOT_NEGATIVE, assert_names

from diffgrad_optax import diffgrad, schedules

settings.register_profile(
    'deterministic', derandomize=True, deadline=None, database=None, max_examples=50
)
settings.load_profile('deterministic')

LARGEST = 2**31 - 1


# The formulas, of Python numbers.


def inverse_decay(t, init_value, decay_rate):
    return init_value / (1.0 + decay_rate * t)


def halving(t, init_value, transition_steps):
    return init_value * 0.5 ** (t // transition_steps)


def triangular(t, init_value, peak_value, transition_steps):
    t = t % (2 * transition_steps)
    rise = 1.0 - abs(t / transition_steps - 1.0)
    return init_value + (peak_value - init_value) * rise


def halved(value, steps):
    return halving, {'init_value': value, 'transition_steps': steps}


def triangle(low, high, steps):
    arguments = {'init_value': low, 'peak_value': high, 'transition_steps': steps}
    return triangular, arguments


CASES = {
    'inverse_decay': (inverse_decay, {'init_value': 0.1, 'decay_rate': 0.37}),
    'inverse_decay-slow': (inverse_decay, {'init_value': 3.0, 'decay_rate': 1e-9}),
    'inverse_decay-none': (inverse_decay, {'init_value': 0.1, 'decay_rate': 0.0}),
    # Whose product with a count is no int32.
    'inverse_decay-integers': (inverse_decay, {'init_value': 2, 'decay_rate': 1000}),
    'halving': halved(0.1, 10),
    'halving-always': halved(1.0, 1),
    'halving-integers': halved(2, 10),
    # 1/41 is rounded down, and 41 of them are less than one.
    'halving-41': halved(0.1, 41),
    'halving-slow': halved(0.1, 2**24 + 1),
    'halving-hardly': halved(0.1, 2**30),
    'triangular': triangle(0.01, 0.1, 10),
    'triangular-zero': triangle(0.0, 0.3, 7),
    'triangular-integers': triangle(0, 2, 10),
    'triangular-1': triangle(0.01, 0.1, 1),
    'triangular-down': triangle(0.1, 0.01, 3),
    'triangular-slow': triangle(0.1, 0.5, 2**24 + 1),
    'triangular-hardly': triangle(0.1, 0.5, 2**30),
}


def made(formula, arguments):
    return getattr(schedules, formula.__name__)(**arguments)


def counts(arguments):
    """Small ones, those around every turn of the schedule, and the largest."""
    period = arguments.get('transition_steps', 1)
    turns = [period * k + d for k in (1, 2, 3, 7, 8, 100) for d in (-1, 0, 1)]
    around = [2**k + d for k in (23, 24, 25, 30) for d in (-1, 0, 1)]
    candidates = {*range(60), *turns, *around, LARGEST - 1, LARGEST}
    return sorted(t for t in candidates if t <= LARGEST)


def assert_equal_formula(actual, formula, arguments, ts, rtol=3e-7):
    """Within three roundings of float32 at the scale of the schedule.

    Where it goes to zero, halving has no rounding at all, and what float32 cannot
    hold is zero.
    """
    expected = np.array([formula(t, **arguments) for t in ts])
    atol = 1e-38
    if formula is triangular:
        atol = rtol * max(arguments['init_value'], arguments['peak_value'])
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize('x64', [False, True], ids=['x32', 'x64'])
@pytest.mark.parametrize('name', CASES)
def test_schedule_equals_its_formula_at_counts_of_every_type(name, x64):
    formula, arguments = CASES[name]
    ts = counts(arguments)
    with jax.enable_x64(x64):
        schedule = made(formula, arguments)
        for type_ in (int, np.int32, np.int64, jnp.int32):
            actual = [float(schedule(type_(t))) for t in ts[::7] + ts[-2:]]
            assert_equal_formula(actual, formula, arguments, ts[::7] + ts[-2:])


@pytest.mark.parametrize('x64', [False, True], ids=['x32', 'x64'])
@pytest.mark.parametrize('name', CASES)
def test_schedule_equals_its_formula_at_traced_counts(name, x64):
    formula, arguments = CASES[name]
    ts = counts(arguments)
    with jax.enable_x64(x64):
        schedule = made(formula, arguments)
        traced = np.array(ts, np.int32)
        jitted = jax.jit(schedule)
        actual = [jitted(t) for t in traced]
        assert {(a.shape, a.dtype.kind) for a in actual} == {((), 'f')}
        assert_equal_formula(actual, formula, arguments, ts)
        assert_equal_formula(jax.vmap(schedule)(traced), formula, arguments, ts)
        _, scanned = jax.lax.scan(
            lambda count, _: (optax.safe_increment(count), schedule(count)),
            jnp.zeros((), jnp.int32),
            length=300,
        )
        assert_equal_formula(scanned, formula, arguments, range(300))


@pytest.mark.parametrize('name', CASES)
def test_schedule_of_traced_numbers_equals_its_formula(name):
    formula, arguments = CASES[name]
    numbers = {k: v for k, v in arguments.items() if isinstance(v, float)}
    static = {k: v for k, v in arguments.items() if k not in numbers}

    @jax.jit
    def at(count, numbers):
        return made(formula, numbers | static)(count)

    ts = counts(arguments)
    actual = [at(np.int32(t), numbers) for t in ts]
    assert_equal_formula(actual, formula, arguments, ts)


# Of the others a step is a rounding, or nothing.
SEEN_TO_MOVE = sorted(name for name in CASES if not re.search('none|slow|hardly', name))


@pytest.mark.parametrize('late', [-1, 1])
@pytest.mark.parametrize('name', [*SEEN_TO_MOVE, 'halving-slow', 'halving-hardly'])
def test_comparison_with_the_formula_fails_one_step_off(name, late):
    formula, arguments = CASES[name]
    ts = counts(arguments)
    schedule = jax.jit(made(formula, arguments))
    actual = [schedule(np.int32(t)) for t in ts]
    with pytest.raises(AssertionError, match='Mismatched elements'):
        assert_equal_formula(actual, formula, arguments, [t + late for t in ts])


# Properties.

rates = st.floats(2.0**-20, 8.0, width=32)
steps = st.integers(1, 1000)
times = st.integers(0, LARGEST)


@given(rates, rates, st.lists(times, min_size=2, max_size=5))
def test_inverse_decay_starts_at_its_value_and_never_rises(value, rate, ts):
    schedule = schedules.inverse_decay(value, rate)
    values = [float(schedule(t)) for t in (0, *sorted(ts))]
    assert values[0] == value
    assert all(a >= b > 0.0 for a, b in itertools.pairwise(values))


@given(rates, steps, st.integers(0, 20), st.integers(0, 999))
def test_halving_is_exactly_half_after_every_n_steps(value, every, k, t):
    schedule = schedules.halving(value, every)
    expected = math.ldexp(value, -k)
    within = t % every
    assert float(schedule(np.int32(k * every + within))) == expected
    assert float(schedule(np.int32((k + 1) * every + within))) == expected / 2.0


@given(rates, rates, steps, times)
def test_triangle_repeats_itself_is_symmetric_and_stays_within(a, b, step_size, t):
    base, peak = min(a, b), max(a, b)
    schedule = schedules.triangular(base, peak, step_size)
    t = np.int32(t % 10**6)
    value = float(schedule(t))
    assert value == float(schedule(np.int32(t + 2 * step_size)))
    mirrored = np.int32(2 * step_size * 1000 - t % (2 * step_size))
    np.testing.assert_allclose(float(schedule(mirrored)), value, rtol=3e-7)
    rounding = 3e-7 * peak
    assert base - rounding <= value <= peak + rounding
    # Its ends are reached, and exactly.
    assert float(schedule(0)) == base
    assert float(schedule(step_size)) == peak
    assert float(schedule(2 * step_size)) == base


@given(rates, rates, st.integers(2, 1000))
def test_triangle_climbs_and_falls_by_equal_steps(a, b, step_size):
    schedule = schedules.triangular(a, b, step_size)
    # Of one length, so that nothing is compiled twice.
    values = np.asarray(schedule(jnp.arange(2001)))[: 2 * step_size + 1]
    slope = (b - a) / step_size
    expected = np.repeat([slope, -slope], step_size)
    np.testing.assert_allclose(np.diff(values), expected, atol=1e-6 * max(a, b))


# As learning rates.


@pytest.mark.parametrize('name', ['inverse_decay', 'halving-always', 'triangular'])
@pytest.mark.parametrize('make', [optax.sgd, diffgrad], ids=['optax.sgd', 'diffgrad'])
def test_schedule_is_a_learning_rate_and_the_first_step_has_count_zero(name, make):
    formula, arguments = CASES[name]
    grads = jnp.ones(2)
    optimizer, unscaled = make(made(formula, arguments)), make(1.0)
    state, unscaled_state = optimizer.init(grads), unscaled.init(grads)
    for t in range(12):
        updates, state = optimizer.update(grads, state)
        expected, unscaled_state = unscaled.update(grads, unscaled_state)
        rate = formula(t, **arguments)
        np.testing.assert_allclose(updates, rate * expected, rtol=3e-7)


@pytest.mark.parametrize('name', ['inverse_decay', 'halving', 'triangular'])
def test_schedule_can_be_injected(name, float32):
    formula, arguments = CASES[name]
    optimizer = optax.inject_hyperparams(optax.sgd)(made(formula, arguments))
    grads = jnp.ones(2)
    state = optimizer.init(grads)
    for t in range(25):
        updates, state = optimizer.update(grads, state, grads)
        rate = formula(t, **arguments)
        np.testing.assert_allclose(updates, np.full(2, -rate), rtol=3e-7)
        np.testing.assert_allclose(state.hyperparams['learning_rate'], rate, rtol=3e-7)


# Refusals.

STEP_COUNTS = ('transition_steps',)
ARGUMENTS = [
    pytest.param(formula, arguments, name, id=f'{formula.__name__}-{name}')
    for formula, arguments in (
        CASES[name] for name in ('inverse_decay', 'halving', 'triangular')
    )
    for name in arguments
]
NUMBERS = [p for p in ARGUMENTS if p.values[2] not in STEP_COUNTS]
COUNTS = [p for p in ARGUMENTS if p.values[2] in STEP_COUNTS]


def test_every_schedule_and_argument_is_tried():
    assert {formula.__name__ for formula, _ in CASES.values()} == set(schedules.__all__)
    for formula, arguments in CASES.values():
        function = getattr(schedules, formula.__name__)
        assert list(inspect.signature(function).parameters) == list(arguments)


@pytest.mark.parametrize('value', NOT_NEGATIVE[1])
@pytest.mark.parametrize('formula, arguments, name', NUMBERS)
def test_number_out_of_range_is_refused(formula, arguments, name, value):
    with pytest.raises(ValueError) as refusal:
        made(formula, arguments | {name: value})
    assert_names(refusal, f'{name} must be', 'finite and >= 0', repr(value))


@pytest.mark.parametrize('value', NO_NUMBERS, ids=repr)
@pytest.mark.parametrize('formula, arguments, name', NUMBERS)
def test_what_is_no_number_is_refused(formula, arguments, name, value):
    with pytest.raises(TypeError) as refusal:
        made(formula, arguments | {name: value})
    assert_names(refusal, f'{name} must be a number', 'finite and >= 0', repr(value))


@pytest.mark.parametrize(
    ('value', 'error'),
    [
        (0, ValueError),
        (-3, ValueError),
        (np.int32(0), ValueError),
        (True, TypeError),
        (10.0, TypeError),
        (np.float32(10.0), TypeError),
        ('10', TypeError),
        (None, TypeError),
        (jnp.asarray(10), TypeError),
        (np.asarray(10), TypeError),
    ],
    ids=lambda value: None if isinstance(value, type) else repr(value),
)
@pytest.mark.parametrize('formula, arguments, name', COUNTS)
def test_wrong_number_of_steps_is_refused(formula, arguments, name, value, error):
    with pytest.raises(error) as refusal:
        made(formula, arguments | {name: value})
    is_array = isinstance(value, (jax.Array, np.ndarray))
    got = 'int64[]' if is_array else repr(value)
    assert_names(refusal, f'{name} must be an integer >= 1', f'got {got}')


@pytest.mark.parametrize('formula, arguments, name', COUNTS)
def test_number_of_steps_that_no_count_reaches_is_refused(formula, arguments, name):
    made(formula, arguments | {name: 2**31 - 1})(5)
    with pytest.raises(ValueError) as refusal:
        made(formula, arguments | {name: 2**31})
    assert_names(refusal, name, 'an integer >= 1 and < 2147483648, got 2147483648')


@pytest.mark.parametrize('formula, arguments, name', COUNTS)
def test_number_of_steps_may_be_any_integer_type(formula, arguments, name):
    ts = [199, 200, 201, 300, 400, 5000]
    for type_ in (np.int32, np.uint8, np.int64):
        steps = arguments | {name: 200}
        schedule = made(formula, steps | {name: type_(200)})
        assert_equal_formula([schedule(t) for t in ts], formula, steps, ts)
        traced = [jax.jit(schedule)(np.int32(t)) for t in ts]
        assert_equal_formula(traced, formula, steps, ts)


@pytest.mark.parametrize(
    'schedule',
    [
        schedules.inverse_decay(0.5, 0.25),
        schedules.halving(0.5, 3),
        schedules.triangular(0.1, 0.5, 3),
    ],
    ids=['inverse_decay', 'halving', 'triangular'],
)
@pytest.mark.parametrize('dtype', ['int32', 'uint32'])
def test_counts_of_any_integer_dtype_promote_none(schedule, dtype):
    with jax.numpy_dtype_promotion('strict'):
        rate = schedule(jnp.asarray(7, dtype))
    np.testing.assert_allclose(rate, schedule(7), rtol=1e-6)
