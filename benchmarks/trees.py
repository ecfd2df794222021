"""Trees of parameters to update, as shapes alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def resnet50() -> Any:
    """The paper's network: 23,520,842 numbers in 161 arrays."""

    def normalized(*kernel: int) -> list[tuple[int, ...]]:
        return [kernel, kernel[-1:], kernel[-1:]]

    shapes, features = normalized(3, 3, 3, 64), 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            shapes += normalized(features, width)
            shapes += normalized(3, 3, width, width)
            shapes += normalized(width, 4 * width)
            if block == 0:
                shapes += normalized(features, 4 * width)
            features = 4 * width
    shapes += [(features, 10), (10,)]
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def array(size: int) -> Any:
    """One square array of `size` numbers, an even power of two."""
    side = math.isqrt(size)
    return jax.ShapeDtypeStruct((side, side), jnp.float32)


def decoder(layers: int, width: int, hidden: int, vocabulary: int) -> Any:
    """A language model's decoder: nine arrays a layer, and the embedding."""

    def matrix(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {
        **{name: matrix(width, width) for name in ('q', 'k', 'v', 'o')},
        **{name: matrix(width, hidden) for name in ('gate', 'up')},
        'down': matrix(hidden, width),
        **{name: matrix(width) for name in ('attention_norm', 'mlp_norm')},
    }
    return {'embedding': matrix(vocabulary, width), 'layers': [layer] * layers}


# Sizes differ because a GPU's caches and speed are larger; `smoke` proves that the
# benchmark runs and measures nothing.
TREES = {
    'resnet50': {'cpu': resnet50, 'gpu': resnet50},
    'array': {'cpu': lambda: array(2**24), 'gpu': lambda: array(2**28)},
    # About a thousand arrays and as many numbers as resnet50.
    'decoder': {
        'cpu': lambda: decoder(111, 128, 384, 1024),
        'gpu': lambda: decoder(111, 128, 384, 1024),
    },
    # 1.14e9 numbers.
    'billion': {'gpu': lambda: decoder(16, 2048, 8192, 32768)},
}


def smoke() -> Any:
    """Two small arrays of different ranks."""
    return {
        'a': jax.ShapeDtypeStruct((3, 4, 8), jnp.float32),
        'b': jax.ShapeDtypeStruct((8,), jnp.float32),
    }


def cast(tree: Any, dtype: Any) -> Any:
    """The same shapes in another dtype."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)


def count(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """How many bytes a tree takes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def full(tree: Any, value: Any = 0.01) -> Any:
    """Parameters of these shapes, every one `value`."""
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), tree)
