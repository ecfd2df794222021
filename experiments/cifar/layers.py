"""Layers as PyTorch makes them: its padding, its initialisation, its statistics.

Convolution and linear weights, and their biases, start uniform in ±1/√fan_in. Batch
normalisation has momentum 0.9 (PyTorch's 0.1) and ε = 1e-5. One difference: flax
keeps the biased batch variance in its running average, PyTorch the unbiased one.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Activation = Callable[[jax.Array], jax.Array]

# Variance 1/(3 fan_in) is the uniform distribution on ±1/√fan_in.
uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def uniform(bound: float) -> Callable[..., jax.Array]:
    """The uniform distribution on ±bound."""

    def init(key: jax.Array, shape: Any, dtype: Any, *_: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def convolution(
    features_in: int,
    features: int,
    kernel: int,
    stride: int,
    *,
    use_bias: bool = False,
    **kwargs: Any,
) -> nnx.Conv:
    """A convolution, padded symmetrically as PyTorch pads."""
    return nnx.Conv(
        features_in,
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=use_bias,
        kernel_init=uniform_fan_in,
        bias_init=uniform(1 / math.sqrt(kernel**2 * features_in)),
        **kwargs,
    )


def linear(features_in: int, features: int, **kwargs: Any) -> nnx.Linear:
    """A linear layer with a bias."""
    return nnx.Linear(
        features_in,
        features,
        kernel_init=uniform_fan_in,
        bias_init=uniform(1 / math.sqrt(features_in)),
        **kwargs,
    )


def batch_norm(features: int, **kwargs: Any) -> nnx.BatchNorm:
    """Batch normalisation with a scale and a bias."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, **kwargs)


def corners(x: jax.Array, stride: int) -> jax.Array:
    """The first pixel of each square: `x[:, ::stride, ::stride]`.

    XLA's GPU backend in jax 0.11.2 aborts where it would fuse a slice with a stride,
    and the activation before it, into a product of matrices.
    """
    below, right = (-side % stride for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels)
    return x[:, :, 0, :, 0]


class Pointwise(nnx.Module):
    """A 1×1 convolution, written as the matrix product that it is.

    XLA's CPU backend runs the product faster than the convolution; results and
    parameter counts are the same. It must be one of matrices: with more axes, the
    kernel's gradient transposes the whole batch first.
    """

    def __init__(
        self, features_in: int, features: int, stride: int = 1, **kwargs: Any
    ) -> None:
        self.stride = stride
        self.linear = nnx.Linear(
            features_in, features, use_bias=False, kernel_init=uniform_fan_in, **kwargs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = corners(x, self.stride)
        return self.linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
