"""ResNets for small images, as the diffGrad paper trains them.

A 3×3 stem without stride or pooling, four stages of residual blocks, a global
average pool and a linear layer. Widths are `width` times 1, 2, 4, 8; at width 64
and 10 classes `resnet50` has 23,520,842 parameters.

Initialisation and batch normalisation are PyTorch's defaults: convolution and
linear weights, and the linear bias, uniform in ±1/√fan_in; running statistics
with momentum 0.9 (PyTorch's 0.1) and ε = 1e-5. One difference: flax keeps the
biased batch variance in its running average, PyTorch the unbiased one.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Activation = Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Activation] = {
    'relu': jax.nn.relu,
    'leaky_relu': partial(jax.nn.leaky_relu, negative_slope=0.1),
    'elu': jax.nn.elu,
    'selu': jax.nn.selu,
}

# Variance 1/(3 fan_in) is the uniform distribution on ±1/√fan_in.
uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


# One object for equal bounds: models that differ in the seed alone then have equal
# graph definitions, and share a compilation.
@cache
def uniform(bound: float) -> nnx.initializers.Initializer:
    """The uniform distribution on ±bound."""

    def init(key: jax.Array, shape: Any, dtype: Any, *_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def convolution(
    features_in: int, features: int, kernel: int, stride: int, **kwargs: Any
) -> nnx.Conv:
    """A convolution without bias, padded symmetrically as PyTorch pads."""
    return nnx.Conv(
        features_in,
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=uniform_fan_in,
        **kwargs,
    )


class Pointwise(nnx.Module):
    """A 1×1 convolution, written as the matrix product that it is.

    XLA's CPU backend runs the product faster than the convolution; results and
    parameter counts are the same.
    """

    def __init__(
        self, features_in: int, features: int, stride: int = 1, **kwargs: Any
    ) -> None:
        self.stride = stride
        self.linear = nnx.Linear(
            features_in, features, use_bias=False, kernel_init=uniform_fan_in, **kwargs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x[:, :: self.stride, :: self.stride])


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
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, **kwargs)
        self.conv1 = convolution(features_in, width, 3, stride, **kwargs)
        self.norm1 = norm(width)
        self.conv2 = convolution(width, width, 3, 1, **kwargs)
        self.norm2 = norm(width)
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
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, **kwargs)
        self.conv1 = Pointwise(features_in, width, **kwargs)
        self.norm1 = norm(width)
        self.conv2 = convolution(width, width, 3, stride, **kwargs)
        self.norm2 = norm(width)
        self.conv3 = Pointwise(width, features, **kwargs)
        self.norm3 = norm(features)
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
            self.norm = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)) if self.projects else x


class ResNet(nnx.Module):
    """A residual network on images of any size.

    Args:
      block: the residual block.
      stage_sizes: blocks in each stage; the first of every later stage halves
        the image's sides.
      channels: of the images.
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
        channels: int,
        classes: int,
        width: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        kwargs: Any = {'dtype': dtype, 'param_dtype': jnp.float32, 'rngs': rngs}
        self.conv = convolution(channels, width, 3, 1, **kwargs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, **kwargs)
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
        self.head = nnx.Linear(
            features,
            classes,
            kernel_init=uniform_fan_in,
            bias_init=uniform(1 / math.sqrt(features)),
            **kwargs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of normalised images, batch × height × width × channels."""
        x = self.activation(self.norm(self.conv(images)))
        for block in self.blocks:
            x = block(x)
        x = jnp.mean(x, axis=(1, 2))
        return self.head(x).astype(jnp.float32)


MODELS: dict[str, Callable[..., ResNet]] = {
    'resnet18': partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    'resnet34': partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    'resnet50': partial(ResNet, Bottleneck, (3, 4, 6, 3)),
}
