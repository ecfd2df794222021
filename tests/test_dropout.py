"""Masks: how often they keep, what they depend on and what not, what they touch."""

import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from devices import cpu_devices
from problems import gradient_trajectory, initial_params
from test_trajectories import assert_all_steps_close, per_array, run

import diffgrad_optax._dropout as dropout_module
from diffgrad_optax import (
    diffgrad,
    gradient_dropout,
    learning_rate_dropout,
    scale_by_diffgrad,
)

DROPOUTS = (gradient_dropout, learning_rate_dropout)
ROOT = Path(__file__).parent.parent

both = pytest.mark.parametrize('dropout', DROPOUTS)


def masks(dropout, shapes, steps=1, keep_prob=0.5, key=0):
    """What is kept at each step, as a tree like `shapes`."""
    grads = jax.tree.map(jnp.ones, shapes, is_leaf=lambda node: type(node) is tuple)
    updates = run(dropout(keep_prob, key), steps * [grads], grads, move_params=False)
    return [jax.tree.map(lambda u: np.asarray(u) != 0.0, u) for u in updates]


def assert_binomial(count, trials, probability):
    """Within five standard deviations of what independent trials give.

    By chance outside once in two million times; the keys are fixed, so it stays
    whatever it was once.
    """
    deviation = (trials * probability * (1.0 - probability)) ** 0.5
    assert abs(count - trials * probability) <= 5.0 * deviation, (
        f'{count} of {trials}, expected {trials * probability:.0f} ± {deviation:.0f}'
    )


def assert_independent(named_masks, keep_prob=0.5):
    """Any two masks agree as often as independent ones."""
    for (name, a), (other, b) in itertools.combinations(named_masks.items(), 2):
        try:
            assert_binomial(
                np.sum(a == b), a.size, keep_prob**2 + (1.0 - keep_prob) ** 2
            )
        except AssertionError as error:
            raise AssertionError(f'{name} and {other} agree in {error}') from None


# How often.


def assert_keeps(dropout, keep_prob):
    for step in masks(dropout, {'a': (2000,), 'b': (50, 40)}, 10, keep_prob):
        for mask in step.values():
            assert_binomial(np.sum(mask), mask.size, keep_prob)


@both
@pytest.mark.parametrize('keep_prob', [0.1, 0.5, 0.9])
def test_elements_are_kept_as_often_as_keep_prob_says(dropout, keep_prob):
    assert_keeps(dropout, keep_prob)


@both
@pytest.mark.parametrize('keep_prob', [0, 0.0, 1, 1.0])
def test_zero_keeps_nothing_and_one_keeps_everything(dropout, keep_prob):
    for mask in masks(dropout, (100_000,), 3, keep_prob):
        np.testing.assert_array_equal(mask, np.full(mask.shape, bool(keep_prob)))


@both
def test_a_traced_keep_prob_keeps_what_a_plain_one_keeps(dropout):
    grads = jnp.ones(1000)

    @jax.jit
    def first(keep_prob):
        optimizer = dropout(keep_prob, 0)
        return optimizer.update(grads, optimizer.init(grads))[0]

    for keep_prob in (0.0, 0.25, 1.0):
        (plain,) = masks(dropout, grads.shape, 1, keep_prob)
        for dtype in ('bfloat16', 'float32', 'float64'):
            np.testing.assert_array_equal(
                first(jnp.asarray(keep_prob, dtype)) != 0.0, plain
            )


@both
def test_keep_prob_follows_a_schedule(dropout):
    grads = jnp.ones(1000)
    optimizer = optax.inject_hyperparams(dropout)(
        keep_prob=lambda count: jnp.array([1.0, 0.0, 0.5, 0.5])[count], key=3
    )
    first, second, *later = [
        np.asarray(u) != 0.0 for u in run(optimizer, 4 * [grads], grads)
    ]
    assert first.all()
    assert not second.any()
    np.testing.assert_array_equal(later, masks(dropout, (1000,), 4, 0.5, key=3)[2:])


@pytest.mark.parametrize('key', [3, jax.random.key(3)], ids=['integer', 'typed'])
def test_any_key_can_be_injected(key):
    grads = jnp.ones(1000)
    optimizer = optax.inject_hyperparams(gradient_dropout)(keep_prob=0.5, key=key)
    injected = [np.asarray(u) != 0.0 for u in run(optimizer, 3 * [grads], grads)]
    np.testing.assert_array_equal(injected, masks(gradient_dropout, (1000,), 3, key=3))


# Independence.

SIZE = (64, 64)


def assert_leaves_and_steps_independent(dropout, keep_prob):
    steps = masks(dropout, {name: SIZE for name in 'abc'}, 5, keep_prob)
    assert_independent(
        {
            f'leaf {name} at step {t}': mask
            for t, step in enumerate(steps)
            for name, mask in step.items()
        },
        keep_prob,
    )


@both
@pytest.mark.parametrize('keep_prob', [0.1, 0.5, 0.9])
def test_masks_of_leaves_and_of_steps_are_independent(dropout, keep_prob):
    assert_leaves_and_steps_independent(dropout, keep_prob)


@both
@pytest.mark.parametrize('keep_prob', [0.1, 0.5, 0.9])
def test_elements_of_a_mask_are_independent(dropout, keep_prob):
    (mask,) = masks(dropout, (256, 128), 1, keep_prob)
    flat = mask.ravel()
    neighbours = flat.reshape(-1, 2).T
    rows = mask.reshape(-1, 2, 128).swapaxes(0, 1)
    halves = flat.reshape(2, -1)
    for a, b in (neighbours, rows, halves):
        assert_independent({'one part': a, 'the other': b}, keep_prob)


def assert_dropouts_independent(first, second):
    assert_independent(
        {
            f'dropout {i} at step {t}': mask
            for i, dropout in enumerate((first, second))
            for t, mask in enumerate(masks(dropout, SIZE, 4))
        }
    )


def test_the_two_dropouts_draw_different_masks_from_one_key():
    assert_dropouts_independent(*DROPOUTS)


@both
def test_dropout_is_independent_of_optax_noise_from_the_same_key(dropout):
    grads = {name: jnp.zeros(SIZE, 'float32') for name in 'ab'}
    noise = optax.add_noise(eta=1.0, gamma=0.0, key=0)
    drawn = {
        f'noise of {name} at step {t}': np.asarray(leaf) < 0.0
        for t, step in enumerate(run(noise, 4 * [grads], grads))
        for name, leaf in step.items()
    }
    steps = masks(dropout, {'a': SIZE, 'b': SIZE}, 4)
    for t, step in enumerate(steps):
        for name, mask in step.items():
            assert_independent({f'mask of {name} at step {t}': mask, **drawn})


@functools.cache
def masks_of_the_users_keys(depth=4, children=3):
    """Fair masks from a key, from what it is split into, from their splits, ...

    Drawn in float32 as dropout's: other dtypes draw other bits from one key.
    """
    keys, level = [], jax.random.key(0)[None]
    for _ in range(depth):
        keys.append(level)
        level = jnp.concatenate([jax.random.split(key, children) for key in level])
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, np.float32(0.5), SIZE))
    return np.asarray(draw(jnp.concatenate(keys)))


def assert_independent_of_the_users_keys(dropout):
    theirs = masks_of_the_users_keys()
    for step in masks(dropout, {'a': SIZE, 'b': SIZE}, 3):
        for mask in step.values():
            for agreements in np.sum(theirs == mask, axis=(1, 2)):
                assert_binomial(agreements, mask.size, 0.5)


@both
def test_dropout_is_independent_of_what_the_user_splits_from_the_same_key(dropout):
    assert_independent_of_the_users_keys(dropout)


@both
def test_other_keys_draw_other_masks(dropout):
    assert_independent(
        {
            f'key {key} at step {t}': mask
            for key in (0, 1, 2, 2**31, 2**32 - 1)
            for t, mask in enumerate(masks(dropout, SIZE, 2, key=key))
        }
    )


# What is dropped, and what is kept.

SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 1e-3, -3.0)


def assert_touches_nothing_but_what_it_drops(dropout, dtype):
    values = jnp.asarray(np.tile(SPECIAL, 50), dtype)
    if jnp.iscomplexobj(values):
        values = jax.lax.complex(values.real, values.real[::-1])
    (kept,) = masks(dropout, values.shape)
    optimizer = dropout(0.5, 0)
    updates, _ = optimizer.update(values, optimizer.init(values))
    assert updates.dtype == values.dtype
    bits, expected = (
        np.asarray(array).view(np.uint8).reshape(values.size, -1)
        for array in (updates, values)
    )
    # Exactly zero, and not -0.
    np.testing.assert_array_equal(bits[~kept], 0)
    np.testing.assert_array_equal(bits[kept], expected[kept])


@both
@pytest.mark.parametrize(
    'dtype',
    [
        'float8_e4m3fn',
        'bfloat16',
        'float16',
        'float32',
        'float64',
        'complex64',
        'complex128',
    ],
)
def test_dropped_elements_are_zero_and_kept_ones_keep_every_bit(dropout, dtype):
    assert_touches_nothing_but_what_it_drops(dropout, dtype)


def test_moments_see_every_gradient_under_learning_rate_dropout():
    grads, params = gradient_trajectory(), initial_params()
    adam = optax.adam(0.1)
    dropping = optax.chain(adam, learning_rate_dropout(0.5, key=0))
    state, dropping_state = adam.init(params), dropping.init(params)
    shapes = jax.tree.map(np.shape, params)
    for step_grads, mask in zip(
        grads, masks(learning_rate_dropout, shapes, len(grads)), strict=True
    ):
        updates, state = adam.update(step_grads, state)
        dropped, dropping_state = dropping.update(step_grads, dropping_state)
        chex.assert_trees_all_equal(dropping_state[0], state)
        chex.assert_trees_all_equal(
            dropped, jax.tree.map(lambda u, m: u * m, updates, mask)
        )


def assert_follows_reference(make_optimizer, dropped):
    """Compares every step with diffGrad's equations and the masks of `dropped`."""
    grads, params = gradient_trajectory(), initial_params()
    shapes = jax.tree.map(np.shape, params)
    steps = masks(dropped, shapes, len(grads), 0.7, key=5)
    if dropped is gradient_dropout:
        seen = [
            jax.tree.map(np.multiply, g, m) for g, m in zip(grads, steps, strict=True)
        ]
        expected = per_array(references.diffgrad, seen)
    else:
        updates = per_array(references.diffgrad, grads)
        expected = [
            jax.tree.map(np.multiply, u, m) for u, m in zip(updates, steps, strict=True)
        ]
    optimizer = make_optimizer(0.7, key=5)
    assert_all_steps_close(run(optimizer, grads, params), expected)


def before(keep_prob, key):
    return optax.chain(gradient_dropout(keep_prob, key), scale_by_diffgrad())


def after(keep_prob, key):
    return optax.chain(scale_by_diffgrad(), learning_rate_dropout(keep_prob, key))


def test_every_step_with_gradient_dropout_equals_the_equations_of_what_is_kept():
    assert_follows_reference(before, gradient_dropout)


def test_every_step_with_learning_rate_dropout_is_the_kept_part_of_the_equations():
    assert_follows_reference(after, learning_rate_dropout)


# What masks depend on.


@pytest.mark.parametrize(
    ('dtype', 'x64'),
    [
        ('float32', False),
        *(
            pytest.param(*types, marks=pytest.mark.slow)
            for types in (('bfloat16', False), ('float32', True), ('float64', True))
        ),
    ],
)
@pytest.mark.parametrize('way', ['eager', 'jit', 'scan', 'vmap'])
def test_masks_are_the_same_however_they_are_computed(dtype, x64, way):
    steps, shapes = 3, {'a': (40, 5), 'b': (200,)}
    expected = masks(gradient_dropout, shapes, steps, 0.3)
    with jax.enable_x64(x64):
        optimizer = gradient_dropout(0.3, 0)
        grads = {name: np.ones(shape, dtype) for name, shape in shapes.items()}
        state = optimizer.init(grads)
        if way == 'scan':
            _, updates = jax.lax.scan(
                lambda state, _: optimizer.update(grads, state)[::-1],
                state,
                length=steps,
            )
            actual = [jax.tree.map(lambda u: u[t], updates) for t in range(steps)]  # noqa: B023
        elif way == 'vmap':
            # Two trees of gradients and one state: the same mask for both.
            update = jax.vmap(optimizer.update, in_axes=(0, None), out_axes=(0, None))
            two = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), grads)
            actual = []
            for _ in range(steps):
                updates, state = update(two, state)
                ones, twos = (
                    jax.tree.map(lambda u: u[i], updates)  # noqa: B023
                    for i in range(2)
                )
                chex.assert_trees_all_equal(twos, jax.tree.map(lambda u: 2 * u, ones))
                actual.append(ones)
        else:
            jit = way == 'jit'
            actual = list(run(optimizer, steps * [grads], grads, jit=jit))
        actual = jax.tree.map(lambda u: np.asarray(u != 0), actual)
    chex.assert_trees_all_equal(actual, expected)


@both
def test_masks_depend_on_the_place_among_the_leaves_and_not_on_the_tree(dropout):
    expected = [list(step.values()) for step in masks(dropout, {'a': (8,), 'b': (9,)})]
    for tree in (
        [(8,), (9,)],
        {'x': {'y': (8,)}, 'z': [(9,)]},
        {'a': (8,), 'between': None, 'c': (9,)},
        {'a': (8,), 'between': optax.MaskedNode(), 'c': (9,)},
    ):
        actual = [jax.tree.leaves(step) for step in masks(dropout, tree)]
        chex.assert_trees_all_equal(actual, expected)


@both
def test_init_starts_the_same_masks_again(dropout):
    optimizer, grads = dropout(0.5, 7), jnp.ones(100)
    first = list(run(optimizer, 3 * [grads], grads))
    chex.assert_trees_all_equal(list(run(optimizer, 3 * [grads], grads)), first)


@both
@pytest.mark.parametrize('x64', [False, True], ids=['x32', 'x64'])
@pytest.mark.parametrize('key', [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_integer_key_is_the_typed_key_of_that_number(dropout, key, x64):
    with jax.enable_x64(x64):
        expected = masks(dropout, (100,), 2, key=jax.random.key(np.uint32(key)))
        for same in (key, np.int64(key), np.uint32(key), jnp.uint32(key)):
            chex.assert_trees_all_equal(masks(dropout, (100,), 2, key=same), expected)


@both
def test_key_may_be_traced(dropout):
    grads = jnp.ones(100)

    @jax.jit
    def first(key):
        optimizer = dropout(0.5, key)
        return optimizer.update(grads, optimizer.init(grads))[0] != 0.0

    (expected,) = masks(dropout, (100,), key=11)
    for key in (11, jax.random.key(11)):
        np.testing.assert_array_equal(first(key), expected)


@both
@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg', 'unsafe_rbg'])
def test_keys_of_every_implementation_are_kept_and_draw_fair_masks(dropout, impl):
    key = jax.random.key(0, impl=impl)
    steps = masks(dropout, {'a': SIZE, 'b': SIZE}, 3, key=key)
    assert_independent(
        {
            f'leaf {name} at step {t}': mask
            for t, step in enumerate(steps)
            for name, mask in step.items()
        }
    )
    optimizer = dropout(0.5, key)
    state = optimizer.init(jnp.ones(2))
    for _ in range(2):
        assert jax.random.key_impl(state.key) == impl
        assert state.key.shape == ()
        _, state = optimizer.update(jnp.ones(2), state)


@pytest.mark.parametrize(
    'key',
    [0, jax.random.key(0, impl='rbg')],
    ids=['integer', 'rbg'],
)
def test_run_from_a_checkpoint_is_the_uninterrupted_one_to_the_bit(key, tmp_path):
    ocp = pytest.importorskip(
        'orbax.checkpoint', reason='orbax is in the extra examples'
    )
    optimizer = optax.chain(
        gradient_dropout(0.7, key), diffgrad(0.1), learning_rate_dropout(0.5, key)
    )
    grads = gradient_trajectory()[:8]
    params = jax.tree.map(jnp.asarray, initial_params())
    update = jax.jit(optimizer.update)

    def go_on(params, state, grads):
        steps = []
        for step_grads in grads:
            updates, state = update(step_grads, state, params)
            params = optax.apply_updates(params, updates)
            steps.append(params)
        return steps, state

    half, state = go_on(params, optimizer.init(params), grads[:4])
    # As RunDirectory in experiments/lab/run_directory.py does it.
    with ocp.CheckpointManager(tmp_path) as checkpoints:
        saved = (half[-1], state)
        checkpoints.save(4, args=ocp.args.StandardSave(saved))
        checkpoints.wait_until_finished()
        fresh = (params, optimizer.init(params))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, fresh)
        restored = checkpoints.restore(4, args=ocp.args.StandardRestore(target))
    assert restored[1][0].key.dtype == state[0].key.dtype
    chex.assert_trees_all_equal(
        go_on(*restored, grads[4:])[0], go_on(half[-1], state, grads[4:])[0]
    )
    # Which is not what starts again.
    with pytest.raises(AssertionError, match='not equal'):
        chex.assert_trees_all_equal(
            go_on(half[-1], optimizer.init(params), grads[4:])[0],
            go_on(half[-1], state, grads[4:])[0],
        )


SPECS = {
    'both_axes': ('x', 'y'),
    'columns': (None, ('x', 'y')),
}

# One process for all cases, because the number of devices is fixed at its start.
ON_EIGHT_DEVICES = """
import contextlib, json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from diffgrad_optax import gradient_dropout
grads = jnp.ones((16, 8))
optimizer = gradient_dropout(0.5, 0)

def two_masks(sharding, update):
    sharded = jax.device_put(grads, sharding)
    state = optimizer.init(sharded)
    masks = []
    for _ in range(2):
        updates, state = update(sharded, state)
        assert updates.sharding.is_equivalent_to(sharding, 2), updates.sharding
        masks.append((np.asarray(jax.device_get(updates)) != 0.0).tolist())
    return masks

found = {{}}
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(axis_type, axis_type))
    for name, spec in {specs!r}.items():
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        for context in ('set_mesh', 'no_context'):
            for way, update in (
                ('eager', optimizer.update), ('jit', jax.jit(optimizer.update))
            ):
                with contextlib.ExitStack() as stack:
                    if context == 'set_mesh':
                        stack.enter_context(jax.set_mesh(mesh))
                    try:
                        answer = two_masks(sharding, update)
                    except Exception as error:
                        answer = repr(error)
                found['-'.join((axis_type.name, name, context, way))] = answer
print(json.dumps([jax.device_count(), found]))
"""


@functools.cache
def found_on_eight_devices():
    script = ON_EIGHT_DEVICES.format(specs=SPECS)
    child = subprocess.run(
        [sys.executable, '-c', script],
        env=os.environ | cpu_devices(8),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, found = json.loads(child.stdout.splitlines()[-1])
    assert count == 8
    return found


@pytest.mark.parametrize('way', ['eager', 'jit'])
@pytest.mark.parametrize('context', ['no_context', 'set_mesh'])
@pytest.mark.parametrize('spec', SPECS)
@pytest.mark.parametrize('axis_type', ['Auto', 'Explicit'])
def test_masks_are_the_same_under_any_sharding(axis_type, spec, context, way):
    expected = masks(gradient_dropout, (16, 8), 2)
    assert found_on_eight_devices()[f'{axis_type}-{spec}-{context}-{way}'] == [
        mask.tolist() for mask in expected
    ]


# Refusals.


@both
@pytest.mark.parametrize(
    ('key', 'error', 'shown'),
    [
        (True, TypeError, 'True'),
        (np.bool_(True), TypeError, 'True'),
        (jnp.asarray(True), TypeError, 'bool'),
        (0.0, TypeError, '0.0'),
        (jnp.float32(0.0), TypeError, 'float32'),
        ('0', TypeError, "'0'"),
        (None, TypeError, 'None'),
        (2**32, ValueError, '4294967296'),
        (-1, ValueError, '-1'),
        (np.int64(-1), ValueError, '-1'),
        (jax.random.PRNGKey(0), TypeError, 'uint32[2]'),
        (jax.random.split(jax.random.key(0)), TypeError, 'key<fry>[2]'),
        (np.arange(2), TypeError, 'int64[2]'),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value),
)
def test_wrong_key_is_refused(dropout, key, error, shown):
    with pytest.raises(error) as refusal:
        dropout(0.5, key)
    for part in ('key must be an integer in [0, 2**32) or a typed key', shown):
        assert part in str(refusal.value)


# Mutants: each claim fails for a dropout without it.

BERNOULLI, FOLD_IN = jax.random.bernoulli, jax.random.fold_in


def with_updates(function, dropout=gradient_dropout):
    """A dropout of which `function(updates, keep_prob)` is what comes out."""

    def make(keep_prob, key):
        inner = dropout(keep_prob, key)

        def update(updates, state, params=None):
            updates, state = inner.update(updates, state, params)
            return jax.tree.map(lambda u: function(u, keep_prob), updates), state

        return optax.GradientTransformation(inner.init, update)

    return make


def never_moving_on(keep_prob, key):
    inner = gradient_dropout(keep_prob, key)

    def update(updates, state, params=None):
        return inner.update(updates, state, params)[0], state

    return optax.GradientTransformation(inner.init, update)


def salted(salt):
    return lambda keep_prob, key: dropout_module._dropout(keep_prob, key, salt=salt)


def test_rates_fail_for_dropping_what_should_be_kept(monkeypatch):
    monkeypatch.setattr(
        jax.random, 'bernoulli', lambda key, p, shape: BERNOULLI(key, 1.0 - p, shape)
    )
    with pytest.raises(AssertionError, match='expected'):
        assert_keeps(gradient_dropout, 0.9)


def test_rates_fail_for_a_keep_prob_that_is_three_hundredths_off(monkeypatch):
    monkeypatch.setattr(
        jax.random, 'bernoulli', lambda key, p, shape: BERNOULLI(key, p + 0.03, shape)
    )
    with pytest.raises(AssertionError, match='expected'):
        assert_keeps(gradient_dropout, 0.9)


def test_independence_fails_for_one_mask_for_all_steps():
    with pytest.raises(AssertionError, match='step 0 and leaf a at step 1 agree'):
        assert_leaves_and_steps_independent(never_moving_on, 0.5)


def test_independence_fails_for_one_mask_for_all_leaves(monkeypatch):
    monkeypatch.setattr(
        jax.random,
        'fold_in',
        lambda key, data: FOLD_IN(key, data if data > 2**16 else 0),
    )
    with pytest.raises(AssertionError, match='leaf a at step 0 and leaf b at step 0'):
        assert_leaves_and_steps_independent(gradient_dropout, 0.5)


def test_independence_fails_for_dropouts_that_share_their_salt():
    with pytest.raises(AssertionError, match='dropout 0 at step 0 and dropout 1 at'):
        assert_dropouts_independent(salted(7), salted(7))


@pytest.mark.parametrize('salt', [0, 1, 2])
def test_independence_fails_for_a_salt_that_is_a_users_split(salt):
    with pytest.raises(AssertionError, match='expected'):
        assert_independent_of_the_users_keys(salted(salt))


@pytest.mark.parametrize(
    'mutant',
    [
        with_updates(lambda u, keep_prob: u / keep_prob),
        with_updates(lambda u, keep_prob: -u),
        with_updates(lambda u, keep_prob: jnp.nan_to_num(u)),
        with_updates(lambda u, keep_prob: jnp.where(u == 0.0, -0.0, u)),
    ],
    ids=['rescaled', 'turned_round', 'without_nan', 'minus_zero'],
)
def test_claim_about_bits_fails_for_a_mutant(mutant):
    with pytest.raises(AssertionError, match='Mismatched elements'):
        assert_touches_nothing_but_what_it_drops(mutant, 'float32')


def test_claim_about_bits_fails_for_a_product_with_the_mask(monkeypatch):
    monkeypatch.setattr(
        jnp, 'where', lambda kept, leaf, zeros: leaf * kept.astype(leaf.dtype)
    )
    with pytest.raises(AssertionError, match='Mismatched elements'):
        assert_touches_nothing_but_what_it_drops(gradient_dropout, 'float32')


@pytest.mark.parametrize('mutant', [before, after])
def test_the_comparison_fails_for_dropout_at_the_other_place(mutant):
    def swapped(keep_prob, key):
        return optax.chain(*mutant_parts[mutant](keep_prob, key))

    mutant_parts = {
        before: lambda p, key: (scale_by_diffgrad(), gradient_dropout(p, key)),
        after: lambda p, key: (learning_rate_dropout(p, key), scale_by_diffgrad()),
    }
    dropped = gradient_dropout if mutant is before else learning_rate_dropout
    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(swapped, dropped)


@pytest.mark.parametrize('dropped', DROPOUTS)
def test_the_comparison_fails_for_rescaled_dropout(dropped):
    rescaled = with_updates(lambda u, keep_prob: u / keep_prob, dropped)

    def make(keep_prob, key):
        parts = [rescaled(keep_prob, key), scale_by_diffgrad()]
        return optax.chain(*parts[:: 1 if dropped is gradient_dropout else -1])

    with pytest.raises(AssertionError, match=r'Values not approx[\s\S]*at step'):
        assert_follows_reference(make, dropped)
