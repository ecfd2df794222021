"""experiments/cifar's networks beside the ResNets: DenseNet, CNN and MLP."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_cifar_training import digits_like

from experiments.cifar import device_data, training
from experiments.cifar.densenet import DenseLayer, DenseNet, Transition
from experiments.cifar.mlp_cnn import CNN, MLP
from experiments.cifar.model import ACTIVATIONS, MODELS
from experiments.lab.cli import UserError

# What a compiler has to chew decides the time: a DenseNet of every kind of layer.
SMALL = {'densenet': functools.partial(DenseNet, (2, 1)), 'cnn': CNN, 'mlp': MLP}


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def make(model, image_shape=(32, 32, 3), **changes):
    arguments = {
        'classes': 10,
        'width': 4,
        'activation': ACTIVATIONS['relu'],
        'dtype': jnp.float32,
        'rngs': nnx.Rngs(jax.random.key(0, impl='rbg')),
    }
    return model(image_shape=image_shape, **arguments | changes)


@functools.cache
def abstract(name, image_shape, width):
    return nnx.eval_shape(lambda: make(MODELS[name], image_shape, width=width))


@pytest.mark.parametrize(
    ('name', 'image_shape', 'width', 'expected'),
    [
        # Growth 32, as PyTorch counts it.
        ('densenet121', (32, 32, 3), 64, 6_956_298),
        ('cnn', (32, 32, 3), 64, 808_458),
        ('mlp', (28, 28, 1), 64, 50_890),
        ('mlp', (8, 8, 1), 5, 8 * 8 * 5 + 5 + 5 * 10 + 10),
    ],
)
def test_parameter_counts_are_the_papers(name, image_shape, width, expected):
    params = nnx.state(abstract(name, image_shape, width), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_densenet121_has_blocks_of_6_12_24_and_16_layers():
    kinds = [type(layer) for layer in abstract('densenet121', (32, 32, 3), 64).layers]
    blocks = [
        len(list(group))
        for kind, group in itertools.groupby(kinds)
        if kind is DenseLayer
    ]
    assert blocks == [6, 12, 24, 16]
    assert kinds.count(Transition) == 3


def test_four_dense_blocks_leave_a_pixel_of_the_digits():
    def logits(images):
        return make(functools.partial(DenseNet, (1, 1, 1, 1)), (8, 8, 1))(images)

    out = nnx.eval_shape(logits, jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32))
    assert out.shape == (5, 10)


@pytest.mark.parametrize('image_shape', [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize('name', list(SMALL))
def test_logits_are_float32_on_every_data_set(name, image_shape):
    def logits(images):
        return make(SMALL[name], image_shape, dtype=jnp.bfloat16)(images)

    out = nnx.eval_shape(logits, jax.ShapeDtypeStruct((5, *image_shape), jnp.float32))
    assert (out.shape, out.dtype) == ((5, 10), jnp.float32)


@pytest.mark.parametrize('name', list(SMALL))
def test_bfloat16_computes_every_product_in_bfloat16(name):
    model = make(SMALL[name], (8, 8, 1), dtype=jnp.bfloat16)
    graphdef, state = nnx.split(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype('float32')}
    program = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(
        state, jnp.zeros((5, 8, 8, 1))
    )
    products = [
        line
        for line in program.as_text().splitlines()
        if 'stablehlo.dot_general' in line or 'stablehlo.convolution' in line
    ]
    assert len(products) == {'densenet': 9, 'cnn': 6, 'mlp': 2}[name]
    assert all('f32>' not in line.replace('bf16>', '') for line in products)


@pytest.mark.parametrize('name', list(SMALL))
def test_networks_that_differ_in_the_seed_share_a_compilation(name):
    def graph(seed):
        def build():
            return make(SMALL[name], (8, 8, 1), rngs=nnx.Rngs(seed))

        return nnx.split(nnx.eval_shape(build))[0]

    one, two = graph(1), graph(2)
    assert one == two
    assert hash(one) == hash(two)


def test_an_odd_width_of_a_densenet_is_refused():
    with pytest.raises(UserError, match=r'--width 63 is odd.*choose an even one'):
        make(MODELS['densenet121'], width=63)


# The forward pass, in NumPy and float64, in training mode.


def shaken(model, seed=0):
    """`model` with every parameter moved, so that none is 0 or 1."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(np.float32),
        nnx.state(model, nnx.Param),
    )
    nnx.update(model, params)
    model.train()
    return model


def images(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def value(parameter):
    return np.asarray(parameter[...], np.float64)


def leaky_relu(x):
    return np.where(x > 0, x, 0.1 * x)


def norm(x, layer):
    mean = x.mean((0, 1, 2))
    deviation = np.sqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5)
    return (x - mean) / deviation * value(layer.scale) + value(layer.bias)


def conv(x, layer):
    """Each output is the window around it times the kernel; zeros are around x."""
    kernel = value(layer.kernel)
    side = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row, column in itertools.product(range(x.shape[1]), range(x.shape[2])):
        window = padded[
            :, row : row + kernel.shape[0], column : column + kernel.shape[1]
        ]
        out[:, row, column] = np.einsum('nijc,ijcd->nd', window, kernel)
    return out + (0 if layer.bias is None else value(layer.bias))


def linear(x, layer):
    return x @ value(layer.kernel) + (0 if layer.bias is None else value(layer.bias))


def dense_layer(x, layer):
    y = linear(leaky_relu(norm(x, layer.norm1)), layer.conv1.linear)
    y = conv(leaky_relu(norm(y, layer.norm2)), layer.conv2)
    return np.concatenate([y, x], axis=-1)


def transition(x, layer):
    y = linear(leaky_relu(norm(x, layer.norm)), layer.conv.linear)
    rows, columns = y.shape[1] // 2, y.shape[2] // 2
    out = np.zeros((len(y), rows, columns, y.shape[-1]))
    for row, column in itertools.product(range(rows), range(columns)):
        window = y[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        out[:, row, column] = window.mean((1, 2))
    return out


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_densenet_is_dense_blocks_around_halving_transitions():
    model = shaken(
        make(
            SMALL['densenet'], (6, 5, 3), width=6, activation=ACTIVATIONS['leaky_relu']
        )
    )
    x = images(3, 6, 5, 3)
    one, two, half, three = model.layers
    y = dense_layer(dense_layer(conv(x, model.conv), one), two)
    assert y.shape == (3, 6, 5, 6 + 3 + 3)
    y = transition(y, half)
    assert y.shape == (3, 3, 2, 6)
    y = leaky_relu(norm(dense_layer(y, three), model.norm)).mean((1, 2))
    assert_equal(model(x), linear(y, model.head))


def test_a_cnn_is_a_5x5_and_four_normalised_3x3_convolutions():
    model = shaken(make(CNN, (6, 5, 3), activation=ACTIVATIONS['leaky_relu']))
    x = images(3, 6, 5, 3)
    y = leaky_relu(conv(x, model.stem))
    for layer, norm_layer in zip(model.convs, model.norms, strict=True):
        y = leaky_relu(norm(conv(y, layer), norm_layer))
    assert len(model.convs) == 4
    assert_equal(model(x), linear(y.reshape(3, -1), model.head))


def test_an_mlp_is_a_hidden_layer_on_the_flattened_image():
    model = shaken(make(MLP, (6, 5, 3), activation=ACTIVATIONS['leaky_relu']))
    x = images(3, 6, 5, 3)
    hidden = leaky_relu(linear(x.reshape(3, -1), model.hidden))
    assert_equal(model(x), linear(hidden, model.head))


# How they start.


def test_densenet_and_cnn_start_uniform_within_one_over_root_fan_in():
    densenet = make(SMALL['densenet'], width=16)
    cnn = make(CNN, (8, 8, 3), width=32)
    for weights, fan_in in (
        (densenet.conv.kernel, 9 * 3),
        (densenet.layers[1].conv1.linear.kernel, 16 + 8),
        (densenet.layers[1].conv2.kernel, 9 * 32),
        (densenet.layers[2].conv.linear.kernel, 32),
        (densenet.head.kernel, 24),
        (densenet.head.bias, 24),
        (cnn.stem.kernel, 25 * 3),
        (cnn.stem.bias, 25 * 3),
        (cnn.convs[3].kernel, 9 * 32),
        (cnn.convs[3].bias, 9 * 32),
        (cnn.head.kernel, 8 * 8 * 32),
        (cnn.head.bias, 8 * 8 * 32),
    ):
        scaled = np.asarray(weights[...]) * np.sqrt(fan_in)
        # Rounded once: a float32 bound times a root.
        assert 0.5 < np.abs(scaled).max() <= 1 + 1e-6
        if scaled.size > 400:
            # The mean of |x| on a uniform (-1, 1) is ½; 0.06 is four deviations.
            np.testing.assert_allclose(np.abs(scaled).mean(), 0.5, atol=0.06)
            np.testing.assert_allclose(scaled.mean(), 0.0, atol=0.12)


def test_an_mlp_starts_glorot_normal_and_without_biases():
    model = make(MLP, (28, 28, 1), width=64)
    for layer, fans in ((model.hidden, 784 + 64), (model.head, 64 + 10)):
        scaled = np.asarray(layer.kernel[...]) / np.sqrt(2 / fans)
        four_deviations = 4 / np.sqrt(scaled.size)
        np.testing.assert_allclose(scaled.mean(), 0, atol=four_deviations)
        np.testing.assert_allclose(scaled.std(), 1, atol=four_deviations)
        np.testing.assert_array_equal(layer.bias[...], 0)


# How they learn.


@pytest.mark.parametrize('name', list(SMALL))
def test_every_kind_learns_and_counts_every_test_image_once(name, monkeypatch):
    monkeypatch.setitem(MODELS, 'small', SMALL[name])
    mesh = device_data.data_parallel_mesh()
    data = digits_like()
    task, state = training.init_state(
        'small',
        data=data,
        width=8,
        activation='relu',
        dtype=jnp.float32,
        optimizer=optax.adam(1e-2),
        seed=0,
        mesh=mesh,
    )
    data = device_data.put_data(data, mesh)
    key = jax.random.key(0)
    losses = []
    for epoch in range(15):
        for row in device_data.epoch_order(key, epoch, count=64, batch_size=32):
            state, metrics = training.train_steps(
                state, data, row[None], key, task=task
            )
            losses.append(float(metrics.loss) / 32)
    assert losses[-1] < losses[0] / 2
    # 50 images in batches of 16 need a partly filled one, in batches of 50 none.
    padded, whole = (
        training.evaluate(state, data, task=task, batch_size=size, mesh=mesh)
        for size in (16, 50)
    )
    assert int(padded.correct) == int(whole.correct) > 40
    np.testing.assert_allclose(padded.loss, whole.loss, rtol=1e-4)
