"""DenseNets for small images, as AdaBelief's and AdaDiff's experiments train them.

A 3×3 stem without stride or pooling, dense blocks with a halving transition between
each two, a global average pool and a linear layer. Each layer of a block sees the
features of all before it. At width 64 (growth 32) and 10 classes `densenet121` has
6,956,298 parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cifar.layers import (
    Activation,
    Pointwise,
    batch_norm,
    convolution,
    linear,
)
from experiments.lab.cli import UserError


class DenseLayer(nnx.Module):
    """`growth` new features, from a 1×1 and a 3×3 convolution, before the old ones."""

    def __init__(
        self, features_in: int, growth: int, activation: Activation, **kwargs: Any
    ) -> None:
        self.activation = activation
        self.norm1 = batch_norm(features_in, **kwargs)
        self.conv1 = Pointwise(features_in, 4 * growth, **kwargs)
        self.norm2 = batch_norm(4 * growth, **kwargs)
        self.conv2 = convolution(4 * growth, growth, 3, 1, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(self.activation(self.norm1(x)))
        y = self.conv2(self.activation(self.norm2(y)))
        return jnp.concatenate([y, x], axis=-1)


class Transition(nnx.Module):
    """Half of the features, at half of the image's sides."""

    def __init__(self, features_in: int, activation: Activation, **kwargs: Any) -> None:
        self.activation = activation
        self.norm = batch_norm(features_in, **kwargs)
        self.conv = Pointwise(features_in, features_in // 2, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.activation(self.norm(x)))
        return nnx.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(nnx.Module):
    """A densely connected network on images of eight pixels and more a side.

    Args:
      block_sizes: layers in each dense block.
      image_shape: height, width and channels.
      classes: the number of logits.
      width: features of the stem; each layer adds half as many.
      activation: in place of ReLU, everywhere.
      dtype: of the computation; parameters and statistics are float32.
      rngs: the keys of the initialisation.

    Raises:
      UserError: if `width` is odd.
    """

    def __init__(
        self,
        block_sizes: tuple[int, ...],
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        width: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        if width % 2:
            raise UserError(
                f'--width {width} is odd, and a DenseNet grows by half of it: choose '
                'an even one'
            )
        self.activation = activation
        kwargs: Any = {'dtype': dtype, 'param_dtype': jnp.float32, 'rngs': rngs}
        self.conv = convolution(image_shape[-1], width, 3, 1, **kwargs)
        growth, features = width // 2, width
        layers: list[nnx.Module] = []
        for block, size in enumerate(block_sizes):
            if block > 0:
                layers.append(Transition(features, activation, **kwargs))
                features //= 2
            for _ in range(size):
                layers.append(DenseLayer(features, growth, activation, **kwargs))
                features += growth
        self.layers = nnx.List(layers)
        self.norm = batch_norm(features, **kwargs)
        self.head = linear(features, classes, **kwargs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of normalised images, batch × height × width × channels."""
        x = self.conv(images)
        for layer in self.layers:
            x = layer(x)
        x = jnp.mean(self.activation(self.norm(x)), axis=(1, 2))
        return self.head(x).astype(jnp.float32)
