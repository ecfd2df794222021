"""Merity et al.'s AWD-LSTM: stacked LSTMs with tied embedding and five dropouts.

With embedding 400, hidden 1150, three layers and 10,000 words it has the published
code's 24,221,600 parameters. Names end in the axes of an array: Batch, Length, width D
or the Gates' four times the units.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.lm.layers import Output, dropout, subkeys
from experiments.lm.sharding import split_batch, whole


class Regularisation(NamedTuple):
    """Parts that are zero in training, and weights of what is added to the loss."""

    words: float = 0.0  # of the vocabulary, wherever they stand in a batch
    inputs: float = 0.0  # of the embedding's features, the same at all positions
    between: float = 0.0  # of the features between layers, likewise
    outputs: float = 0.0  # of the last layer's, likewise
    recurrent: float = 0.0  # of the weights from one position to the next
    activation: float = 0.0  # weight of the mean square of the dropped outputs
    change: float = 0.0  # weight of their mean squared change between positions


# Of the published code's command for the Penn Treebank.
AWD = Regularisation(
    words=0.1,
    inputs=0.4,
    between=0.25,
    outputs=0.4,
    recurrent=0.5,
    activation=2.0,
    change=1.0,
)


class LSTM(nnx.Module):
    """A language model whose state is carried from one batch to the next.

    Args:
      vocabulary: how many tokens there are.
      layers: LSTMs on top of each other; the last one is as wide as the embedding.
      width: of the embedding, which is the output's matrix too.
      hidden: units of the other layers.
      regularisation: of the training.
      dtype: of the products; parameters, gates and state are float32.
      rngs: the keys of the initialisation.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        layers: int,
        width: int,
        hidden: int,
        regularisation: Regularisation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.regularisation = regularisation
        self.dtype = dtype
        self.embedding = nnx.Param(uniform(rngs, (vocabulary, width), 0.1))
        self.bias = nnx.Param(jnp.zeros(vocabulary))
        sizes = [width, *[hidden] * (layers - 1), width]
        self.layers = nnx.List(
            Layer(size_in, size, dtype, rngs) for size_in, size in pairwise(sizes)
        )

    def initial_carry(self, batch: int) -> Any:
        """No memory: two zeros arrays for each layer."""
        return [
            (jnp.zeros((batch, layer.units)), jnp.zeros((batch, layer.units)))
            for layer in self.layers
        ]

    def __call__(
        self, tokens_BxL: jax.Array, carry: Any, key: jax.Array | None = None
    ) -> Output:
        """Logits for the token after each; `key` is for dropout, None is without."""
        rates = self.regularisation
        word_key, input_key, *keys = subkeys(key, 2 + 2 * len(self.layers))
        words = dropout(self.embedding[...], rates.words, word_key, (len(self.bias), 1))
        x = locked_dropout(
            split_batch(words[tokens_BxL].astype(self.dtype)), rates.inputs, input_key
        )
        after = [rates.between] * (len(self.layers) - 1) + [rates.outputs]
        new_carry = []
        for layer, state, rate in zip(self.layers, carry, after, strict=True):
            recurrent_key, output_key, *keys = keys
            raw, state = layer(x, state, rates.recurrent, recurrent_key)
            x = locked_dropout(raw, rate, output_key)
            new_carry.append(state)
        logits = x @ self.embedding[...].T.astype(self.dtype)
        change = raw[:, 1:] - raw[:, :-1]
        penalty = rates.activation * mean_square(x) + rates.change * mean_square(change)
        return Output(logits.astype(jnp.float32) + self.bias[...], new_carry, penalty)


class Layer(nnx.Module):
    """One LSTM: gates in PyTorch's order, input, forget, cell, output."""

    def __init__(
        self, features: int, units: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.units = units
        self.dtype = dtype
        bound = units**-0.5
        self.input = nnx.Param(uniform(rngs, (features, 4 * units), bound))
        self.recurrent = nnx.Param(uniform(rngs, (units, 4 * units), bound))
        # Two of them, as cuDNN has it, and so PyTorch.
        self.input_bias = nnx.Param(uniform(rngs, (4 * units,), bound))
        self.recurrent_bias = nnx.Param(uniform(rngs, (4 * units,), bound))

    def __call__(
        self, x_BxLxD: jax.Array, carry: Any, rate: float, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """The outputs and the last state; `rate` of the recurrent weights are zero."""
        # Gathered once, not at every position.
        recurrent = whole(dropout(self.recurrent[...], rate, key).astype(self.dtype))
        gates_BxLxG = x_BxLxD @ self.input[...].astype(self.dtype)
        gates_BxLxG = split_batch(gates_BxLxG).astype(jnp.float32)
        gates_BxLxG = gates_BxLxG + self.input_bias[...] + self.recurrent_bias[...]

        def step(carry: Any, gates_BxG: jax.Array) -> tuple[Any, jax.Array]:
            h, c = carry
            gates_BxG = gates_BxG + h.astype(self.dtype) @ recurrent
            i, f, g, o = jnp.split(gates_BxG, 4, axis=-1)
            c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
            h = nnx.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        carry, outputs = jax.lax.scan(step, carry, gates_BxLxG.swapaxes(0, 1))
        carry = jax.tree.map(split_batch, carry)
        return split_batch(outputs.swapaxes(0, 1)).astype(self.dtype), carry


def locked_dropout(x_BxLxD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout with the same mask at all positions of a window."""
    batch, _, features = x_BxLxD.shape
    return dropout(x_BxLxD, rate, key, (batch, 1, features))


def mean_square(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(x.astype(jnp.float32)))


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> jax.Array:
    return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
