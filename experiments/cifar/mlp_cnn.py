"""The two plain networks of the mix-and-match study: an MLP and a CNN.

At width 64 and 10 classes `mlp` has 50,890 parameters on images of 28 × 28 × 1, and
`cnn` has 808,458 on 32 × 32 × 3. The arguments are those of the other networks.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cifar.layers import Activation, batch_norm, convolution, linear


class MLP(nnx.Module):
    """One hidden layer of `width` units, initialised as Glorot and Bengio did."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        width: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        kwargs: Any = {
            'kernel_init': nnx.initializers.glorot_normal(),
            'dtype': dtype,
            'param_dtype': jnp.float32,
            'rngs': rngs,
        }
        self.hidden = nnx.Linear(math.prod(image_shape), width, **kwargs)
        self.head = nnx.Linear(width, classes, **kwargs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of normalised images, batch × height × width × channels."""
        x = self.activation(self.hidden(images.reshape(len(images), -1)))
        return self.head(x).astype(jnp.float32)


class CNN(nnx.Module):
    """A 5×5 and four normalised 3×3 convolutions of `width` features, no pooling."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        width: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        height, columns, channels = image_shape
        kwargs: Any = {'dtype': dtype, 'param_dtype': jnp.float32, 'rngs': rngs}
        self.stem = convolution(channels, width, 5, 1, use_bias=True, **kwargs)
        self.convs = nnx.List(
            [convolution(width, width, 3, 1, use_bias=True, **kwargs) for _ in range(4)]
        )
        self.norms = nnx.List([batch_norm(width, **kwargs) for _ in range(4)])
        self.head = linear(height * columns * width, classes, **kwargs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of normalised images, batch × height × width × channels."""
        x = self.activation(self.stem(images))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.activation(norm(conv(x)))
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32)
