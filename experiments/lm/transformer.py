"""A decoder-only Transformer: pre-norm, RMSNorm, rotary positions, GELU, no biases.

With a vocabulary of V, width D, feed-forward width F and N layers it has
2VD + N(4D² + 2DF + 2D) + D parameters. Names end in the axes of an array: Batch,
Length, Heads, Key features, width D.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.lm.layers import Output, dropout, subkeys
from experiments.lm.sharding import split_batch


class Transformer(nnx.Module):
    """A language model that carries nothing from one batch to the next.

    Args:
      vocabulary: how many tokens there are.
      layers: attention and feed-forward each.
      width: of the residual stream.
      hidden: of the feed-forward's middle.
      heads: of the attention; twice their number divides `width`.
      dropout: part of each branch, and of the embedding, that is zero in training.
      dtype: of the computation; parameters are float32.
      rngs: the keys of the initialisation.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        layers: int,
        width: int,
        hidden: int,
        heads: int,
        dropout: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.dropout = dropout
        self.embed = nnx.Embed(
            vocabulary,
            width,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(1.0),
            rngs=rngs,
        )
        # Branches start smaller the more of them are summed.
        kwargs: Any = {
            'branch': 1 / math.sqrt(2 * layers),
            'dtype': dtype,
            'rngs': rngs,
        }
        self.blocks = nnx.List(
            Block(width, hidden, heads, dropout, **kwargs) for _ in range(layers)
        )
        self.norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        # Small logits: the first loss is close to log(vocabulary).
        self.head = linear(width, vocabulary, 0.1, dtype, rngs)

    def initial_carry(self, batch: int) -> tuple[()]:
        return ()

    def __call__(
        self, tokens_BxL: jax.Array, carry: tuple[()], key: jax.Array | None = None
    ) -> Output:
        """Logits for the token after each; `key` is for dropout, None is without."""
        keys = subkeys(key, 1 + len(self.blocks))
        x_BxLxD = split_batch(self.embed(tokens_BxL))
        x_BxLxD = dropout(x_BxLxD, self.dropout, keys[0])
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            x_BxLxD = split_batch(block(x_BxLxD, block_key))
        logits = self.head(self.norm(x_BxLxD)).astype(jnp.float32)
        return Output(logits, carry, jnp.zeros((), jnp.float32))


class Block(nnx.Module):
    """Attention and a feed-forward layer, each normalised before and added."""

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        dropout: float,
        *,
        branch: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.dropout = dropout
        self.attention_norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, heads, branch=branch, dtype=dtype, rngs=rngs)
        self.norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.up = linear(width, hidden, 1.0, dtype, rngs)
        self.down = linear(hidden, width, branch, dtype, rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        attention_key, key = subkeys(key, 2)
        y = self.attention(self.attention_norm(x))
        x = x + dropout(y, self.dropout, attention_key)
        y = self.down(jax.nn.gelu(self.up(self.norm(x))))
        return x + dropout(y, self.dropout, key)


class Attention(nnx.Module):
    """Causal self-attention with rotary positions."""

    def __init__(
        self, width: int, heads: int, *, branch: float, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.heads = heads
        self.qkv = linear(width, 3 * width, 1.0, dtype, rngs)
        self.out = linear(width, width, branch, dtype, rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        batch, length, width = x_BxLxD.shape
        qkv = self.qkv(x_BxLxD).reshape(batch, length, 3, self.heads, -1)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = (qkv[:, :, i] for i in range(3))
        y_BxLxHxK = jax.nn.dot_product_attention(
            rotary(q_BxLxHxK), rotary(k_BxLxHxK), v_BxLxHxK, is_causal=True
        )
        return self.out(y_BxLxHxK.reshape(batch, length, width))


def rotary(x_BxLxHxK: jax.Array) -> jax.Array:
    """Turns pairs of features by angles in proportion to the position."""
    length, features = x_BxLxHxK.shape[1], x_BxLxHxK.shape[-1]
    frequencies = 10_000.0 ** -jnp.linspace(0, 1, features // 2, endpoint=False)
    angles = jnp.arange(length)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BxLxHxK.dtype)


def linear(
    features_in: int, features: int, scale: float, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """Without bias; outputs start `scale` times as large as inputs."""
    return nnx.Linear(
        features_in,
        features,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.normal(scale / math.sqrt(features_in)),
        rngs=rngs,
    )
