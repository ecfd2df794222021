"""Networks as pure functions: parameters are nested dicts, `init` makes them.

Convolutions are written as patches and one matrix product, which stays one product for
each run when all runs of an optimizer are mapped by `vmap`. Names end in the axes of an
array: Batch, Length, Height, Width, features C, Heads, Key features, width D.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
Init = Callable[[jax.Array, tuple[int, ...]], jax.Array]

he_normal = jax.nn.initializers.he_normal()
lecun_normal = jax.nn.initializers.lecun_normal()


def dense_init(key: jax.Array, size_in: int, size: int, init: Init) -> Params:
    return {'w': init(key, (size_in, size)), 'b': jnp.zeros(size)}


def dense(p: Params, x: jax.Array) -> jax.Array:
    return x @ p['w'] + p['b']


def mlp_init(key: jax.Array, sizes: Sequence[int], init: Init) -> list[Params]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        dense_init(k, size_in, size, init)
        for k, size_in, size in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(params: Sequence[Params], x: jax.Array) -> jax.Array:
    """Layers with tanh between them; the last one is linear."""
    for p in params[:-1]:
        x = jnp.tanh(dense(p, x))
    return dense(params[-1], x)


def patches_1d(x_BxLxC: jax.Array, size: int, stride: int) -> jax.Array:
    """The inputs of each output of a convolution with zero padding, side by side."""
    length = x_BxLxC.shape[1]
    x = jnp.pad(x_BxLxC, ((0, 0), (size // 2, size // 2), (0, 0)))
    return jnp.concatenate(
        [x[:, i : i + length : stride] for i in range(size)], axis=-1
    )


def patches_2d(x_BxHxWxC: jax.Array, size: int, stride: int) -> jax.Array:
    height, width = x_BxHxWxC.shape[1:3]
    margin = (size // 2, size // 2)
    x = jnp.pad(x_BxHxWxC, ((0, 0), margin, margin, (0, 0)))
    return jnp.concatenate(
        [
            x[:, i : i + height : stride, j : j + width : stride]
            for i in range(size)
            for j in range(size)
        ],
        axis=-1,
    )


def signal_cnn_init(
    key: jax.Array, channels: Sequence[int], length: int, classes: int
) -> Params:
    """Three convolutions of sizes 5, 3 and 3, and a linear layer."""
    keys = jax.random.split(key, 4)
    sizes = [5 * 1, 3 * channels[0], 3 * channels[1]]
    convolutions = [
        dense_init(k, size_in, size, he_normal)
        for k, size_in, size in zip(keys, sizes, channels, strict=False)
    ]
    features = -(-length // 8) * channels[-1]
    return {
        'convolutions': convolutions,
        'head': dense_init(keys[-1], features, classes, lecun_normal),
    }


def signal_cnn(params: Params, x_BxL: jax.Array) -> jax.Array:
    x = x_BxL[:, :, None]
    for p, size in zip(params['convolutions'], (5, 3, 3), strict=True):
        x = jax.nn.relu(dense(p, patches_1d(x, size, 2)))
    return dense(params['head'], x.reshape(len(x), -1))


def image_cnn_init(key: jax.Array, init: Init) -> Params:
    """Two 3 × 3 convolutions with strides 1 and 2, and two linear layers."""
    keys = jax.random.split(key, 4)
    sizes = [(9, 16), (9 * 16, 32), (4 * 4 * 32, 64), (64, 10)]
    return [
        dense_init(k, size_in, size, init)
        for k, (size_in, size) in zip(keys, sizes, strict=True)
    ]


def image_cnn(params: Params, x_BxHxW: jax.Array) -> jax.Array:
    x = x_BxHxW[..., None]
    for p, stride in zip(params[:2], (1, 2), strict=True):
        x = jax.nn.relu(dense(p, patches_2d(x, 3, stride)))
    x = jax.nn.relu(dense(params[2], x.reshape(len(x), -1)))
    return dense(params[3], x)


def group_norm(p: Params, x_BxHxWxC: jax.Array, groups: int = 8) -> jax.Array:
    shape = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(*shape[:3], groups, -1)
    mean = jnp.mean(x, (1, 2, 4), keepdims=True)
    variance = jnp.var(x, (1, 2, 4), keepdims=True)
    x = ((x - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(shape)
    return x * p['scale'] + p['bias']


def norm_init(size: int) -> Params:
    return {'scale': jnp.ones(size), 'bias': jnp.zeros(size)}


def resnet_init(key: jax.Array, widths: Sequence[int], classes: int) -> Params:
    """A stem on 2 × 2 pixels at a time, and two residual blocks for each width."""
    keys = iter(jax.random.split(key, 2 + 6 * len(widths)))
    params: Params = {'stem': he_normal(next(keys), (9 * 12, widths[0])), 'blocks': []}
    size = widths[0]
    for width in widths:
        for _ in range(2):
            block = {
                'norm1': norm_init(size),
                'conv1': he_normal(next(keys), (9 * size, width)),
                'norm2': norm_init(width),
                'conv2': he_normal(next(keys), (9 * width, width)),
            }
            if size != width:
                block['shortcut'] = lecun_normal(next(keys), (size, width))
            params['blocks'].append(block)
            size = width
    params['norm'] = norm_init(size)
    params['head'] = dense_init(next(keys), size, classes, lecun_normal)
    return params


def resnet(params: Params, x_BxHxWxC: jax.Array) -> jax.Array:
    """Pre-activation blocks; the first of each later width halves the sides."""
    batch, height, width, channels = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, -1)
    x = patches_2d(x, 3, 1) @ params['stem']
    for block in params['blocks']:
        stride = 2 if 'shortcut' in block else 1
        y = jax.nn.relu(group_norm(block['norm1'], x))
        y = patches_2d(y, 3, stride) @ block['conv1']
        y = jax.nn.relu(group_norm(block['norm2'], y))
        y = patches_2d(y, 3, 1) @ block['conv2']
        if 'shortcut' in block:
            x = x[:, ::2, ::2] @ block['shortcut']
        x = x + y
    x = jax.nn.relu(group_norm(params['norm'], x))
    return dense(params['head'], jnp.mean(x, (1, 2)))


def transformer_init(
    key: jax.Array, vocabulary: int, layers: int, width: int
) -> Params:
    """Pre-norm blocks with a feed-forward layer four times as wide; no biases."""
    keys = iter(jax.random.split(key, 2 + 4 * layers))

    def matrix(size_in: int, size: int, scale: float) -> jax.Array:
        normal = jax.random.normal(next(keys), (size_in, size))
        return scale / math.sqrt(size_in) * normal

    # Branches start smaller the more of them are summed.
    branch = 1 / math.sqrt(2 * layers)
    return {
        'embedding': jax.random.normal(next(keys), (vocabulary, width)),
        'blocks': [
            {
                'norm1': jnp.ones(width),
                'qkv': matrix(width, 3 * width, 1.0),
                'out': matrix(width, width, branch),
                'norm2': jnp.ones(width),
                'up': matrix(width, 4 * width, 1.0),
                'down': matrix(4 * width, width, branch),
            }
            for _ in range(layers)
        ],
        'norm': jnp.ones(width),
        # Small logits: the first loss is close to log(vocabulary).
        'head': matrix(width, vocabulary, 0.1),
    }


def rms_norm(scale: jax.Array, x_BxLxD: jax.Array) -> jax.Array:
    square = jnp.mean(jnp.square(x_BxLxD), -1, keepdims=True)
    return x_BxLxD * jax.lax.rsqrt(square + 1e-6) * scale


def rotary(x_BxLxHxK: jax.Array) -> jax.Array:
    """Turns pairs of features by angles in proportion to the position."""
    length, features = x_BxLxHxK.shape[1], x_BxLxHxK.shape[-1]
    frequencies = 10_000.0 ** -jnp.linspace(0, 1, features // 2, endpoint=False)
    angles = jnp.arange(length)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x_BxLxHxK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def transformer(params: Params, tokens_BxL: jax.Array, heads: int) -> jax.Array:
    x = params['embedding'][tokens_BxL]
    for block in params['blocks']:
        qkv = rms_norm(block['norm1'], x) @ block['qkv']
        q, k, v = (
            part.reshape(*part.shape[:2], heads, -1) for part in jnp.split(qkv, 3, -1)
        )
        y = jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        x = x + y.reshape(x.shape) @ block['out']
        y = jax.nn.gelu(rms_norm(block['norm2'], x) @ block['up'])
        x = x + y @ block['down']
    return rms_norm(params['norm'], x) @ params['head']


def lstm_init(key: jax.Array, vocabulary: int, width: int, units: int) -> Params:
    keys = jax.random.split(key, 4)
    gates = dense_init(keys[1], width, 4 * units, lecun_normal)
    # The forget gates start open.
    gates['b'] = gates['b'].at[units : 2 * units].set(1.0)
    return {
        'embedding': jax.random.normal(keys[0], (vocabulary, width)),
        'input': gates,
        'recurrent': lecun_normal(keys[2], (units, 4 * units)),
        'head': dense_init(keys[3], units, vocabulary, lecun_normal),
    }


def lstm(params: Params, tokens_BxL: jax.Array) -> jax.Array:
    """Logits after each token of windows that start without a memory."""
    recurrent = params['recurrent']
    gates_BxLxG = dense(params['input'], params['embedding'][tokens_BxL])

    def step(carry: Any, gates_BxG: jax.Array) -> tuple[Any, jax.Array]:
        h, c = carry
        i, f, g, o = jnp.split(gates_BxG + h @ recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((len(tokens_BxL), len(recurrent)))
    _, hidden = jax.lax.scan(step, (zeros, zeros), gates_BxLxG.swapaxes(0, 1))
    return dense(params['head'], hidden.swapaxes(0, 1))
