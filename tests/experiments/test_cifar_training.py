"""experiments/cifar: the network, the data on the device, the step."""

import functools
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
from devices import cpu_devices
from flax import nnx

from experiments.cifar import device_data, training
from experiments.cifar.data import Dataset, Split
from experiments.cifar.layers import convolution
from experiments.cifar.model import ACTIVATIONS, MODELS
from experiments.cifar.resnet import BasicBlock, Bottleneck, ResNet
from experiments.cifar.train import steps_per_call
from experiments.lab.optimizers import compose, make_optimizer
from experiments.lab.schedules import Length


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def abstract_model(name, classes=10, width=64):
    def build():
        return MODELS[name](
            image_shape=(32, 32, 3),
            classes=classes,
            width=width,
            activation=ACTIVATIONS['relu'],
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )

    return nnx.eval_shape(build)


@pytest.mark.parametrize(
    ('name', 'classes', 'expected'),
    [
        ('resnet18', 10, 11_173_962),
        ('resnet34', 10, 21_282_122),
        ('resnet50', 10, 23_520_842),
        ('resnet50', 100, 23_705_252),
    ],
)
def test_parameter_counts_are_the_papers(name, classes, expected):
    params = nnx.state(abstract_model(name, classes), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_weights_start_uniform_within_one_over_root_fan_in():
    model = ResNet(
        BasicBlock,
        (1, 1),
        image_shape=(32, 32, 3),
        classes=10,
        width=32,
        activation=ACTIVATIONS['relu'],
        dtype=jnp.float32,
        rngs=nnx.Rngs(jax.random.key(0, impl='rbg')),
    )
    for weights, fan_in in (
        (model.blocks[1].conv2.kernel, 9 * 64),
        (model.blocks[1].shortcut.conv.linear.kernel, 32),
        (model.head.kernel, 64),
        (model.head.bias, 64),
    ):
        scaled = np.asarray(weights[...]) * np.sqrt(fan_in)
        assert np.abs(scaled).max() <= 1
        if scaled.size > 500:
            # The mean of |x| on a uniform (-1, 1) is ½; 0.05 is four deviations.
            np.testing.assert_allclose(np.abs(scaled).mean(), 0.5, atol=0.05)
            np.testing.assert_allclose(scaled.mean(), 0.0, atol=0.1)


def test_a_padded_strided_convolution_is_aligned_as_pytorch_aligns_it():
    # PyTorch pads both sides by one: the first window's centre is pixel 0. XLA's
    # SAME would put it at pixel 1 when the stride is 2.
    layer = convolution(1, 1, 3, 2, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(layer(image)[0, :, :, 0], [[0, 2], [8, 10]])


def digits_like(count=64, test_count=50, seed=0):
    """Small images whose class can be seen: one of four corners is bright."""
    rng = np.random.default_rng(seed)

    def split(count):
        labels = rng.integers(0, 4, count).astype(np.int32)
        images = rng.integers(0, 60, (count, 8, 8, 1))
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
        return Split(images.astype(np.uint8), labels)

    return Dataset('here', split(count), split(test_count), 4, False, 1)


def start(optimizer='diffgrad', dtype=jnp.float32, seed=0, block=BasicBlock):
    mesh = device_data.data_parallel_mesh()
    data = digits_like()
    # Two blocks of the real kinds: what a compiler has to chew decides the time.
    MODELS['tiny'] = functools.partial(ResNet, block, (1, 1))
    task, state = training.init_state(
        'tiny',
        data=data,
        width=4,
        activation='relu',
        dtype=jnp.dtype(dtype),
        optimizer=make_optimizer(
            compose(optimizer),
            learning_rate=1e-2,
            schedule='constant',
            length=Length(1, 1),
            seed=seed,
        ),
        lookahead=compose(optimizer).lookahead,
        seed=seed,
        mesh=mesh,
    )
    return mesh, task, state, device_data.put_data(data, mesh)


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_training_learns_and_counts_every_test_image_once(block):
    mesh, task, state, data = start(block=block)
    key = jax.random.key(0)

    def evaluate(state, batch_size):
        return training.evaluate(
            state, data, task=task, batch_size=batch_size, mesh=mesh
        )

    for epoch in range(25):
        order = device_data.epoch_order(key, epoch, count=64, batch_size=32)
        for row in order:
            state, metrics = training.train_steps(
                state, data, row[None], key, task=task
            )
    assert int(state.step) == 50
    assert int(metrics.correct) > 28
    # 50 images in batches of 16 need a partly filled one, in batches of 50 none.
    padded, whole = evaluate(state, 16), evaluate(state, 50)
    assert int(padded.correct) == int(whole.correct) > 40
    np.testing.assert_allclose(padded.loss, whole.loss, rtol=1e-4)


def test_several_steps_in_one_call_are_the_same_steps():
    _, task, state, data = start()
    key = jax.random.key(1)
    order = device_data.epoch_order(key, 0, count=64, batch_size=16)
    copy = jax.tree.map(jnp.copy, state)
    losses = []
    for row in order[:3]:
        state, metrics = training.train_steps(state, data, row[None], key, task=task)
        losses.append(float(metrics.loss))
    together, metrics = training.train_steps(copy, data, order[:3], key, task=task)
    # Another program orders float32 sums otherwise, and Adam's first steps are
    # signs: the loss of three steps is compared, and the statistics.
    np.testing.assert_allclose(metrics.loss, sum(losses), rtol=1e-3)
    assert int(together.step) == int(state.step) == 3
    chex.assert_trees_all_close(
        together.batch_stats, state.batch_stats, rtol=2e-2, atol=2e-2
    )


def test_bfloat16_computes_in_bfloat16_and_keeps_everything_in_float32():
    _, task, state, data = start(dtype=jnp.bfloat16)
    key = jax.random.key(0)
    order = device_data.epoch_order(key, 0, count=64, batch_size=16)
    program = training.batch_gradient.lower(
        state.params, state.batch_stats, data, order[0], key, network=task.network
    )
    assert 'tensor<16x8x8x4xbf16>' in program.as_text()
    before = jax.tree.map(lambda leaf: leaf.dtype, state)
    state, _ = training.train_steps(state, data, order[:1], key, task=task)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == before
    kept = jax.tree.leaves((state.params, state.batch_stats))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype(jnp.float32)}


def test_every_epoch_has_its_own_order_and_each_image_once():
    key = jax.random.key(0)
    first = device_data.epoch_order(key, 1, count=20, batch_size=6)
    assert first.shape == (3, 6)
    assert len(np.unique(first)) == 18
    np.testing.assert_array_equal(
        first, device_data.epoch_order(key, 1, count=20, batch_size=6)
    )
    assert (first != device_data.epoch_order(key, 2, count=20, batch_size=6)).any()


def test_every_crop_is_a_window_of_the_padded_image_and_half_are_mirrored():
    image = np.random.default_rng(0).integers(1, 256, (5, 6, 3)).astype(np.uint8)
    images = jnp.asarray(np.stack([image] * 200))
    out = np.asarray(
        device_data.augment(images, jax.random.key(0), flip=True, padding=2)
    )
    windows = {}
    for mirrored in (False, True):
        source = image[:, ::-1] if mirrored else image
        padded = np.pad(source, ((2, 2), (2, 2), (0, 0)))
        for row in range(5):
            for column in range(5):
                window = padded[row : row + 5, column : column + 6].tobytes()
                windows[window] = (mirrored, row, column)
    seen = [windows[crop.tobytes()] for crop in out]
    assert 60 < sum(mirrored for mirrored, _, _ in seen) < 140
    assert (
        {row for _, row, _ in seen}
        == {column for _, _, column in seen}
        == set(range(5))
    )


def test_without_padding_and_flip_images_stay_as_they_are():
    images = jnp.arange(48, dtype=jnp.uint8).reshape(3, 4, 4, 1)
    out = device_data.augment(images, jax.random.key(0), flip=False, padding=0)
    np.testing.assert_array_equal(out, images)


def test_training_images_get_zero_mean_and_unit_deviation():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (50, 4, 4, 3)).astype(np.uint8)
    split = Split(images, np.zeros(50, np.int32))
    data = device_data.put_data(
        Dataset('here', split, split, 1, False, 0), device_data.data_parallel_mesh()
    )
    out = np.asarray(device_data.normalise(data.train_images, data), np.float64)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-6)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-6)


def test_a_call_takes_a_divisor_of_the_epoch_on_accelerators_and_one_step_on_cpu():
    assert steps_per_call(390, 'gpu') == 39
    assert steps_per_call(97, 'gpu') == 1
    assert steps_per_call(390, 'cpu') == 1


def test_a_strided_bottleneck_is_1x1_then_strided_3x3_then_1x1_around_a_projection():
    block = Bottleneck(
        4, 2, 2, ACTIVATIONS['relu'], dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    block.eval()
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)

    def relu(x):
        return np.maximum(x, 0)

    # Fresh running statistics divide by √(1 + ε).
    def norm(x):
        return x / np.sqrt(1 + 1e-5)

    def weights(layer):
        return np.asarray(layer.kernel[...])

    y = relu(norm(x @ weights(block.conv1.linear)))
    padded, kernel = np.pad(y[0], ((1, 1), (1, 1), (0, 0))), weights(block.conv2)
    strided = np.zeros((1, 2, 2, 2))
    for row in range(2):
        for column in range(2):
            window = padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            strided[0, row, column] = np.einsum('ijc,ijcd->d', window, kernel)
    y = norm(relu(norm(strided)) @ weights(block.conv3.linear))
    shortcut = norm(x[:, ::2, ::2] @ weights(block.shortcut.conv.linear))
    np.testing.assert_allclose(block(x), relu(y + shortcut), rtol=1e-4, atol=1e-5)


def test_every_step_augments_with_a_key_of_its_own(monkeypatch):
    keys = []

    def batch_gradient(params, batch_stats, data, indices, key, **kwargs):
        keys.append(jax.random.key_data(key).tolist())
        return gradient(params, batch_stats, data, indices, key, **kwargs)

    gradient = training.batch_gradient
    monkeypatch.setattr(training, 'batch_gradient', batch_gradient)
    _, task, state, data = start()
    key, order = jax.random.key(0), jnp.arange(16)[None]
    for _ in range(3):
        state, _ = training.train_steps(state, data, order, key, task=task)
    assert len({tuple(key) for key in keys}) == 3


def test_the_augmentation_follows_its_key():
    _, task, state, data = start()

    def loss(seed):
        gradient = training.batch_gradient(
            state.params,
            state.batch_stats,
            data,
            jnp.arange(16),
            jax.random.key(seed),
            network=task.network,
        )
        return float(gradient.metrics.loss)

    assert loss(0) == loss(0) != loss(1)


def broken(data):
    """The same images divided by nothing: every activation is infinite or NaN."""
    return data._replace(deviation=jnp.zeros_like(data.deviation))


def test_a_step_that_is_not_finite_is_counted_and_changes_nothing_else():
    _, task, state, data = start('sgd+noise+lookahead=2')
    task = task._replace(skip_non_finite=True)
    key, order = jax.random.key(0), jnp.arange(32).reshape(2, 16)
    state, metrics = training.train_steps(state, data, order[:1], key, task=task)
    assert int(metrics.count) == 16
    before = jax.tree.map(jnp.copy, state)
    state, metrics = training.train_steps(
        state, broken(data), order[1:], key, task=task
    )
    assert metrics == (0, 0, 0)
    assert int(state.step) == 2
    chex.assert_trees_all_equal(state._replace(step=before.step), before)
    state, metrics = training.train_steps(state, data, order[1:], key, task=task)
    assert int(metrics.count) == 16
    moved = jax.tree.map(lambda *leaves: (leaves[0] != leaves[1]).any(), state, before)
    assert any(jax.tree.leaves(moved.params))
    assert any(jax.tree.leaves(moved.batch_stats))


def test_skipping_changes_nothing_in_steps_that_are_finite():
    states = []
    for skip in (False, True):
        _, task, state, data = start()
        task = task._replace(skip_non_finite=skip)
        for row in jnp.arange(32).reshape(2, 1, 16):
            state, _ = training.train_steps(
                state, data, row, jax.random.key(0), task=task
            )
        states.append(state)
    chex.assert_trees_all_close(*states, rtol=1e-6)


def test_without_skipping_a_step_that_is_not_finite_counts_no_images():
    _, task, state, data = start()
    state, metrics = training.train_steps(
        state, broken(data), jnp.arange(16)[None], jax.random.key(0), task=task
    )
    assert int(metrics.count) == 0
    assert not np.isfinite(metrics.loss)


@pytest.mark.parametrize('skip', [False, True])
def test_steps_of_one_call_are_counted_up_to_the_first_that_is_not_finite(skip):
    _, task, state, data = start('sgd')
    task = task._replace(skip_non_finite=skip)
    # JAX reads a NaN where there is no such class.
    data = data._replace(train_labels=data.train_labels.at[20].set(99))
    order = jnp.arange(64).reshape(4, 16)
    state, metrics = training.train_steps(
        state, data, order, jax.random.key(0), task=task
    )
    assert int(metrics.count) == (48 if skip else 16)
    assert int(state.step) == 4
    assert np.isfinite(metrics.loss) == skip


def test_lookahead_trains_fast_weights_and_tests_slow_ones():
    mesh, task, state, data = start('sgd+lookahead=2')
    assert isinstance(state.params, optax.LookaheadParams)
    key, order = jax.random.key(0), jnp.arange(16)[None]
    first = jax.tree.map(jnp.copy, state.params.slow)
    state, _ = training.train_steps(state, data, order, key, task=task)
    chex.assert_trees_all_equal(state.params.slow, first)

    def loss(params):
        moved = state._replace(params=params)
        metrics = training.evaluate(moved, data, task=task, batch_size=16, mesh=mesh)
        return float(metrics.loss)

    assert loss(state.params) == loss(state.params.slow) != loss(state.params.fast)
    state, _ = training.train_steps(state, data, order, key, task=task)
    chex.assert_trees_all_close(state.params.slow, state.params.fast, rtol=1e-5)


def sizes_and_losses():
    """Of two steps and an evaluation, on all devices."""
    mesh, task, state, data = start('sgdm')
    key = jax.random.key(0)
    order = device_data.epoch_order(key, 0, count=64, batch_size=32)
    order = jax.device_put(
        order, jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, 'data'))
    )
    losses = []
    for i in range(2):
        state, metrics = training.train_steps(
            state, data, order[i : i + 1], key, task=task
        )
        losses.append(float(metrics.loss))
    test = training.evaluate(state, data, task=task, batch_size=32, mesh=mesh)
    leaf = jax.tree.leaves(state.params)[0]
    assert leaf.sharding.is_fully_replicated
    return [mesh.size, len(leaf.sharding.device_set), *losses, float(test.loss)]


def test_four_devices_share_the_batch_and_find_what_one_finds():
    here = Path(__file__).parent
    child = subprocess.run(
        [
            sys.executable,
            '-c',
            'import json, test_cifar_training as tests\n'
            'print(json.dumps(tests.sizes_and_losses()))',
        ],
        env=os.environ | cpu_devices(4) | {'PYTHONPATH': f'{here}:{here.parent}'},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    one, four = sizes_and_losses(), json.loads(child.stdout.splitlines()[-1])
    assert one[:2] == [1, 1]
    assert four[:2] == [4, 4]
    # Sums over the batch are taken in another order.
    np.testing.assert_allclose(four[2:], one[2:], rtol=1e-3)
