"""examples/lm: the step, the evaluation, and what lies on which device."""

import functools
import json
import os
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from examples.common.cli import UserError
from examples.common.rates import Length
from examples.lm import sharding
from examples.lm.batches import epoch_starts
from examples.lm.config import Config
from examples.lm.data import Text
from examples.lm.rates import make_rate
from examples.lm.sample import sample
from examples.lm.train import start
from examples.lm.training import (
    evaluate,
    initial_carry,
    put_everywhere,
    train_steps,
)


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


TOKENS = np.tile(np.arange(8, dtype=np.uint8), 40)  # 320 of them
TEXT = Text('here', TOKENS, TOKENS, None, tuple(b'%d' % i for i in range(8)))
STARTS = epoch_starts(0, 1, count=320, batch=8, length=8, carried=False)


def config(**changes):
    arguments = {
        'layers': 1,
        'width': 16,
        'heads': 2,
        'context': 8,
        'batch_size': 8,
        'epochs': 30,
        'learning_rate': 0.02,
    }
    return Config(**arguments | changes)


@functools.cache
def begun(**changes):
    """What the runs here share: the task, a state that stays, the text."""
    mesh = sharding.make_mesh()
    task, state = start(config(**changes), TEXT, mesh)
    return task, state, put_everywhere(TOKENS, mesh)


def stepped(task, state, tokens, starts):
    """The state after a step for each row of `starts`, and the losses."""
    state, carry = jax.tree.map(jnp.copy, (state, initial_carry(task, state.params, 8)))
    losses = []
    for row in starts:
        state, carry, means = train_steps(
            state, carry, tokens, row[None], jax.random.key(0), task=task
        )
        losses += means.tolist()
    return state, losses


def test_training_learns_to_count_and_the_sample_counts():
    task, state, tokens = begun()
    starts = np.concatenate([STARTS] * 20)
    state, losses = stepped(task, state, tokens, starts)
    np.testing.assert_allclose(losses[0], np.log(8), rtol=0.05)
    assert losses[-1] < 0.1
    assert evaluate(state.params, tokens, 8, task=task) < 0.1
    written = sample(state.params, tokens[3:11], 9, temperature=0.0, seed=0, task=task)
    np.testing.assert_array_equal(written, (np.arange(9) + 3) % 8)


def test_several_steps_in_one_call_are_the_same_steps():
    task, state, tokens = begun()
    alone, losses = stepped(task, state, tokens, STARTS[:3])
    copy = jax.tree.map(jnp.copy, state)
    together, _, means = train_steps(
        copy, (), tokens, STARTS[:3], jax.random.key(0), task=task
    )
    # Another program, another order of float32 sums.
    np.testing.assert_allclose(means, losses, rtol=1e-5)
    assert together.step == alone.step == 3
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(copy.params))


def test_each_step_has_the_rate_of_its_number():
    task, state, tokens = begun()
    for count in (1, 2):
        after, _ = stepped(task, state, tokens, STARTS[:count])
        rate = optax.tree.get(after.opt_state, 'learning_rate')
        np.testing.assert_allclose(rate, task.rate(count - 1), rtol=1e-6)
    assert task.rate(0) != task.rate(1)


def test_the_cosine_rises_over_a_twentieth_and_falls_to_a_tenth():
    rate = make_rate('cosine', 0.5, Length(4, 100))
    # At step 210 it is half way down.
    rates = [rate(step) for step in (0, 20, 210, 400)]
    np.testing.assert_allclose(rates, [0.025, 0.5, 0.275, 0.05], rtol=1e-5)


def test_drops_are_at_epochs_100_and_145_of_200():
    rate = make_rate('drops', 1e-2, Length(200, 7))
    steps = np.array([0, 699, 700, 1014, 1015, 1400])
    expected = [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-5)


def loss_by_hand(logits, targets):
    log_sums = np.log(np.exp(np.float64(logits)).sum(-1))
    return log_sums - np.take_along_axis(logits, targets[..., None], -1)[..., 0]


@functools.partial(jax.jit, static_argnames='task')
def logits_of(params, tokens, task):
    model = nnx.merge(task.graphdef, params)
    return model(tokens, model.initial_carry(len(tokens))).logits


def test_an_evaluation_is_of_every_token_but_the_first():
    task, state, _ = begun()
    tokens = np.random.default_rng(0).integers(0, 8, 320).astype(np.uint8)
    logits = logits_of(state.params, tokens.reshape(-1, 8), task).reshape(320, 8)
    expected = loss_by_hand(logits[:-1], tokens[1:]).mean()
    found = evaluate(state.params, put_everywhere(tokens, task.mesh), 8, task=task)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_network_that_carries_its_state_is_evaluated_at_a_stretch():
    task, state, tokens = begun(model='lstm')
    logits = np.asarray(logits_of(state.params, TOKENS[None, :-1], task))[0]
    expected = loss_by_hand(logits, TOKENS[1:]).mean()
    found = evaluate(state.params, tokens, 1, task=task)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    cut = loss_by_hand(
        logits_of(state.params, TOKENS.reshape(-1, 8), task)[0], TOKENS[1:9]
    )
    assert abs(found - cut.mean()) > 1e-5


def test_a_step_that_is_not_finite_changes_its_number_only():
    task, state, tokens = begun()
    task = task._replace(skip_non_finite=True)
    good, losses = stepped(task, state, tokens, STARTS[:1])
    assert np.isfinite(losses).all()
    assert (good.params['head']['kernel'] != state.params['head']['kernel']).any()
    nan = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), good.params)
    after, losses = stepped(task, good._replace(params=nan), tokens, STARTS[:1])
    assert np.isnan(losses).all()
    chex.assert_trees_all_equal(after.opt_state, good.opt_state)
    chex.assert_trees_all_equal(after.params, nan)
    assert after.step == 2


# A process of its own, because the number of devices is fixed when JAX starts.
ON_DEVICES = """
import json, sys
sys.path.insert(0, {tests!r})
import jax
from test_lm_training import on_devices
print(json.dumps(on_devices(4)))
"""


def on_devices(fsdp):
    """What three steps come to on a mesh, and how the state lies before and after."""
    mesh = sharding.make_mesh(fsdp)
    with jax.set_mesh(mesh):
        task, state = start(config(), TEXT, mesh)
        tokens = put_everywhere(TOKENS, mesh)
        first, key = jax.tree.map(jnp.copy, state), jax.random.key(0)
        steps = train_steps.lower(state, (), tokens, STARTS[:1], key, task=task)
        step = steps.compile()
        losses = []
        for row in STARTS[:3]:
            state, _, means = step(state, (), tokens, row[None], key)
            losses += means.tolist()
        losses.append(evaluate(state.params, tokens, 8, task=task))
    return {
        'losses': losses,
        'parts': [
            [
                {
                    leaf.size // shard.data.size for shard in leaf.addressable_shards
                }.pop()
                for leaf in jax.tree.leaves(tree)
                if leaf.ndim
            ]
            for tree in (first, state)
        ],
        'gathered': re.findall(r'= f32\[([0-9,]*)\]\S* all-gather', step.as_text()),
    }


@functools.cache
def found_on_eight():
    """`on_devices` of a process with eight of them, in two groups of four."""
    here = os.path.dirname(__file__)
    run = subprocess.run(
        [sys.executable, '-c', ON_DEVICES.format(tests=here)],
        env=os.environ
        | {
            # What is compiled for one step need not be fast.
            'XLA_FLAGS': '--xla_force_host_platform_device_count=8 '
            '--xla_backend_optimization_level=0'
        },
        cwd=os.path.dirname(here),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def test_eight_devices_find_what_one_finds():
    task, state, tokens = begun()
    state, losses = stepped(task, state, tokens, STARTS[:3])
    losses.append(evaluate(state.params, tokens, 8, task=task))
    # Sums over the batch are taken in another order.
    np.testing.assert_allclose(found_on_eight()['losses'], losses, rtol=1e-5)


def test_a_device_keeps_its_part_of_every_array_before_and_after():
    parts = found_on_eight()['parts']
    # Parameters, and three times as much in diffGrad's state.
    assert parts[0] == parts[1] == [4] * (4 * 9)


def test_devices_exchange_weights_and_gradients_but_no_activations():
    gathered = {
        tuple(map(int, shape.split(','))) for shape in found_on_eight()['gathered']
    }
    weights = {(8, 16), (16, 48), (16, 16), (16, 64), (64, 16), (16, 8), (16,)}
    assert weights <= gathered | {shape[::-1] for shape in gathered}
    assert all(shape in weights or shape[::-1] in weights for shape in gathered)


def test_a_number_of_devices_that_does_not_divide_is_refused():
    with pytest.raises(
        UserError, match=r'--fsdp 2 does not divide the 1 devices: .* 1$'
    ):
        sharding.make_mesh(2)


def test_an_array_is_split_along_its_first_axis_that_divides():
    mesh = jax.sharding.AbstractMesh((1, 4), ('data', 'fsdp'))
    shapes = [(8, 4), (6, 8), (6, 10), (), (3,), (12,)]
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    specs = [where.spec for where in sharding.shardings(leaves, mesh)]
    assert specs == [P('fsdp'), P(None, 'fsdp'), P(), P(), P(), P('fsdp')]
