"""ResNets for small images, as the diffGrad paper trains them.

A 3×3 stem without stride or pooling, four stages of residual blocks, a global
average pool and a linear layer. Widths are `width` times 1, 2, 4, 8; at width 64
and 10 classes `resnet50` has 23,520,842 parameters.
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


class BasicBlock(nnx.Module):
    """Two 3×3 convolutions around a shortcut."""

    expansion = 1

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        activation: Activation,
        **kwargs: Any,
    ) -> None:
        self.activation = activation
        self.conv1 = convolution(features_in, width, 3, stride, **kwargs)
        self.norm1 = batch_norm(width, **kwargs)
        self.conv2 = convolution(width, width, 3, 1, **kwargs)
        self.norm2 = batch_norm(width, **kwargs)
        self.shortcut = Shortcut(features_in, width, stride, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation(y + self.shortcut(x))


class Bottleneck(nnx.Module):
    """1×1, 3×3 (which has the stride) and 1×1 convolutions around a shortcut."""

    expansion = 4

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        activation: Activation,
        **kwargs: Any,
    ) -> None:
        self.activation = activation
        features = self.expansion * width
        self.conv1 = Pointwise(features_in, width, **kwargs)
        self.norm1 = batch_norm(width, **kwargs)
        self.conv2 = convolution(width, width, 3, stride, **kwargs)
        self.norm2 = batch_norm(width, **kwargs)
        self.conv3 = Pointwise(width, features, **kwargs)
        self.norm3 = batch_norm(features, **kwargs)
        self.shortcut = Shortcut(features_in, features, stride, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.activation(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.activation(y + self.shortcut(x))


class Shortcut(nnx.Module):
    """The identity, or a normalised 1×1 projection where the shape changes."""

    def __init__(
        self, features_in: int, features: int, stride: int, **kwargs: Any
    ) -> None:
        self.projects = stride != 1 or features_in != features
        if self.projects:
            self.conv = Pointwise(features_in, features, stride, **kwargs)
            self.norm = batch_norm(features, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)) if self.projects else x


class ResNet(nnx.Module):
    """A residual network on images of any size.

    Args:
      block: the residual block.
      stage_sizes: blocks in each stage; the first of every later stage halves
        the image's sides.
      image_shape: height, width and channels.
      classes: the number of logits.
      width: features of the stem and of the first stage's blocks.
      activation: in place of ReLU, everywhere.
      dtype: of the computation; parameters and statistics are float32.
      rngs: the keys of the initialisation.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stage_sizes: tuple[int, ...],
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        width: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        kwargs: Any = {'dtype': dtype, 'param_dtype': jnp.float32, 'rngs': rngs}
        self.conv = convolution(image_shape[-1], width, 3, 1, **kwargs)
        self.norm = batch_norm(width, **kwargs)
        blocks = []
        features = width
        for stage, size in enumerate(stage_sizes):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    block(features, width * 2**stage, stride, activation, **kwargs)
                )
                features = block.expansion * width * 2**stage
        self.blocks = nnx.List(blocks)
        self.head = linear(features, classes, **kwargs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of normalised images, batch × height × width × channels."""
        x = self.activation(self.norm(self.conv(images)))
        for block in self.blocks:
            x = block(x)
        x = jnp.mean(x, axis=(1, 2))
        return self.head(x).astype(jnp.float32)
