"""experiments/lm: the step, the evaluation, and what lies on which device."""

import functools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import cpu_devices
from flax import nnx
from jax.sharding import PartitionSpec as P

from experiments.lab.cli import UserError
from experiments.lab.schedules import Length
from experiments.lm import epochs, sharding, train
from experiments.lm.batches import epoch_starts
from experiments.lm.config import Config
from experiments.lm.data import Text
from experiments.lm.epochs import Trainer
from experiments.lm.layers import Output
from experiments.lm.sample import sample
from experiments.lm.schedules import make_rate
from experiments.lm.train import prepare
from experiments.lm.training import (
    TrainState,
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


def starts_of(epoch):
    return epoch_starts(0, epoch, count=320, batch=8, length=8, carried=False)


STARTS = starts_of(1)


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
    """The task, a state with parameters by NumPy, which compiles nothing, the text."""
    mesh = sharding.make_mesh()
    task, make_state = prepare(config(**changes), TEXT, mesh)
    state = jax.eval_shape(make_state)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(scale=0.3, size=leaf.shape)), state.params
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    return task, zeros._replace(params=params), put_everywhere(TOKENS, mesh)


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
    starts = np.concatenate([starts_of(epoch) for epoch in range(20)])
    state, losses = stepped(task, state, tokens, starts)
    assert losses[-1] < 0.1 < 1 < losses[0]
    rate = optax.tree.get(state.opt_state, 'learning_rate')
    np.testing.assert_allclose(rate, task.rate(79), rtol=1e-6)
    assert evaluate(state.params, tokens, 8, task=task) < 0.1
    written = sample(state.params, tokens[3:11], 9, temperature=0.0, seed=0, task=task)
    np.testing.assert_array_equal(written, (np.arange(9) + 3) % 8)


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


@pytest.mark.parametrize(
    ('epochs', 'rates'),
    [(1, [1]), (2, [1, 0.1]), (4, [1, 1, 0.1, 0.01]), (5, [1, 1, 0.1, 0.01, 0.01])],
)
def test_drops_of_short_runs_are_after_a_first_epoch_and_apart(epochs, rates):
    rate = make_rate('drops', 1.0, Length(epochs, 7))
    found = [float(rate(7 * epoch)) for epoch in range(epochs)]
    np.testing.assert_allclose(found, rates, rtol=1e-6)


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


def zeros_and(params):
    """Fast weights that say nothing, and slow ones."""
    return optax.LookaheadParams(jax.tree.map(jnp.zeros_like, params), params)


def test_an_evaluation_is_of_the_slow_weights():
    task, state, tokens = begun()
    expected = evaluate(state.params, tokens, 8, task=task)
    assert abs(expected - np.log(8)) > 0.1
    assert evaluate(zeros_and(state.params), tokens, 8, task=task) == expected


@pytest.mark.parametrize('seed', [7, 3_000_000_000])
def test_a_sample_is_drawn_from_the_slow_weights_by_its_seed(seed):
    task, state, tokens = begun()
    window, expected = np.asarray(tokens[3:11]), []
    for key in jax.random.split(jax.random.key(seed), 9):
        logits = logits_of(state.params, window[None], task)[0, -1]
        expected.append(int(jax.random.categorical(key, logits / 0.5)))
        window = np.append(window[1:], np.uint8(expected[-1]))
    params = zeros_and(state.params)
    written = sample(params, tokens[3:11], 9, temperature=0.5, seed=seed, task=task)
    assert written.tolist() == expected


@pytest.fixture(params=['transformer', 'lstm'])
def trainer(request):
    """Of texts whose lengths tell them apart."""
    text = TEXT._replace(valid=TOKENS[:100], test=TOKENS[:60])
    changed = config(model=request.param, seed=3)
    return Trainer(changed, begun(model=request.param)[0], text)


def test_each_loss_is_of_its_text_and_the_test_text_of_an_lstm_at_a_stretch(
    trainer, monkeypatch
):
    def told(params, tokens, batch, task):
        return len(tokens), batch

    monkeypatch.setattr(epochs, 'evaluate', told)
    state = TrainState((), (), 0)
    assert trainer.loss(state) == (100, 8)
    strings = 1 if trainer.config.model == 'lstm' else 8
    assert trainer.test_loss(state, trainer.text.test) == (60, strings)


def test_windows_of_an_lstm_go_on_where_those_before_them_end(trainer):
    go_on = (np.diff(trainer.starts(1), axis=0) == 8).all()
    assert go_on == (trainer.config.model == 'lstm')


def test_the_seed_is_that_of_the_dropout_and_of_the_first_weights(trainer, monkeypatch):
    assert trainer.key == jax.random.key(3)
    monkeypatch.setattr(train, 'first_state', lambda key, **_: key)
    _, make_state = prepare(trainer.config, TEXT, trainer.task.mesh)
    assert make_state() == jax.random.key(3)


def update_of(grads, **changes):
    """The first step of SGD at a rate of 1, from weights that are 1."""
    changed = config(optimizer='sgd', learning_rate=1.0, **changes)
    optimizer = prepare(changed, TEXT, sharding.make_mesh())[0].optimizer
    params = jnp.ones_like(grads)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_gradients_are_clipped_and_weights_decay_as_told():
    grads = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(update_of(grads), [-3.0, -4.0])
    np.testing.assert_allclose(update_of(grads, clip=0.5), [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(update_of(grads, weight_decay=0.5), [-3.5, -4.5])


@pytest.fixture
def fake(monkeypatch):
    """A task whose network is its penalty: five times the weights, times a draw.

    All its logits are one weight each, which equal weights leave without a gradient:
    every window has every token once.
    """

    def network(graphdef, params):
        def call(tokens, carry, key):
            logits = jnp.broadcast_to(params, (*tokens.shape, 8))
            return Output(logits, carry + 1, 5 * jax.random.uniform(key) * params.sum())

        return call

    monkeypatch.setattr(nnx, 'merge', network)
    task, _ = prepare(config(optimizer='sgd'), TEXT, sharding.make_mesh())
    return task._replace(graphdef='fake')


def fake_steps(task, params):
    params = jnp.asarray(params, jnp.float32)
    state = TrainState(params, task.optimizer.init(params), jnp.int32(0))
    return train_steps(state, 0.0, TOKENS, STARTS[:2], jax.random.key(3), task=task)


def test_each_step_has_a_rate_and_a_key_of_its_own_a_penalty_and_what_is_carried(fake):
    state, carry, means = fake_steps(fake, np.zeros(8))
    draws = [
        float(jax.random.uniform(jax.random.fold_in(jax.random.key(3), step)))
        for step in (0, 1)
    ]
    assert draws[0] != draws[1]
    expected = -sum(5 * draw * fake.rate(step) for step, draw in enumerate(draws))
    np.testing.assert_allclose(state.params, np.full(8, expected), rtol=1e-5)
    np.testing.assert_allclose(means, np.log(8), rtol=1e-6)  # without the penalty
    assert carry == state.step == 2


def test_losses_and_gradients_are_those_of_the_fast_weights(fake):
    task, _ = prepare(config(optimizer='sgd+lookahead'), TEXT, sharding.make_mesh())
    params = optax.LookaheadParams(jnp.log(jnp.arange(1.0, 9.0)), jnp.zeros(8))
    state = TrainState(params, task.optimizer.init(params), jnp.int32(0))
    task = task._replace(graphdef='fake')
    _, _, means = train_steps(
        state, 0.0, TOKENS, STARTS[:1], jax.random.key(3), task=task
    )
    # Every window has every token once.
    expected = np.log(36) - np.log(np.arange(1, 9)).mean()
    np.testing.assert_allclose(means, expected, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_its_number_only(fake):
    weights = np.where(np.arange(8) == 0, np.nan, 1.0)
    state, carry, means = fake_steps(fake._replace(skip_non_finite=True), weights)
    assert np.isnan(means).all()
    np.testing.assert_array_equal(state.params, weights)
    assert carry == 0
    assert state.step == 2
    state, carry, _ = fake_steps(fake._replace(skip_non_finite=True), np.ones(8))
    assert (np.asarray(state.params) < 1).all()
    assert carry == 2


def test_a_step_whose_gradient_alone_is_infinite_is_told_from_others(fake, monkeypatch):
    def network(graphdef, params):
        penalty = jnp.sqrt(params.sum())  # whose slope at 0 is infinite
        return lambda tokens, carry, key: Output(
            jnp.broadcast_to(params, (*tokens.shape, 8)), carry + 1, penalty
        )

    monkeypatch.setattr(nnx, 'merge', network)
    task = fake._replace(skip_non_finite=True, graphdef='rooted')
    state, _, means = fake_steps(task, np.zeros(8))
    np.testing.assert_array_equal(state.params, np.zeros(8))
    assert np.isnan(means).all()
    _, _, means = fake_steps(task, np.ones(8))
    assert np.isfinite(means).all()


# Processes of their own, because the number of devices is fixed when JAX starts.
ON_DEVICES = """
import json, sys
sys.path[:0] = {tests!r}
from experiments.lab.processes import connect
connect()
from test_lm_training import on_devices
print(json.dumps(on_devices(4)))
"""


def on_devices(fsdp):
    """What three steps come to on a mesh, and how the state lies before and after."""
    mesh = sharding.make_mesh(fsdp)
    with jax.set_mesh(mesh):
        task, make_state = prepare(config(), TEXT, mesh)
        state = make_state()
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


def found_on_eight():
    """What two processes with four devices each find, in two groups of four."""
    here = Path(__file__).parent
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                '-c',
                ON_DEVICES.format(tests=[str(here), str(here.parent)]),
            ],
            env=os.environ
            # What is compiled for one step need not be fast.
            | cpu_devices(4, '--xla_backend_optimization_level=0')
            | {
                'JAX_COORDINATOR_ADDRESS': address,
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': str(index),
            },
            cwd=here.parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in said)
    assert first == second
    return first


def test_eight_devices_of_two_processes_split_the_state_and_find_what_one_finds():
    found = found_on_eight()
    # Parameters, and three times as much in diffGrad's state; before and after.
    assert found['parts'] == [[4] * (4 * 9)] * 2
    # Weights are exchanged, and their gradients, and no activations.
    weights = {(8, 16), (16, 48), (16, 16), (16, 64), (64, 16), (16, 8), (16,)}
    gathered = {tuple(map(int, shape.split(','))) for shape in found['gathered']}
    gathered |= {shape[::-1] for shape in gathered}
    assert weights <= gathered <= weights | {shape[::-1] for shape in weights}
    mesh = sharding.make_mesh()
    task, make_state = prepare(config(), TEXT, mesh)
    tokens = put_everywhere(TOKENS, mesh)
    first, key = make_state(), jax.random.key(0)
    # All steps in one call, as on an accelerator; the eight take one in each.
    state, _, means = train_steps(first, (), tokens, STARTS[:3], key, task=task)
    losses = [*means.tolist(), evaluate(state.params, tokens, 8, task=task)]
    # Sums over the batch are taken in another order.
    np.testing.assert_allclose(found['losses'], losses, rtol=1e-5)
    assert state.step == 3
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


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
