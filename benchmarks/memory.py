"""Bytes on each device: measured from shards, and reckoned for large models.

python -m benchmarks.memory

Places a small decoder's parameters, gradients and optimizer state on 1, 4 and 8 forced
CPU devices, every array split along its first axis, and adds up what lies on the
fullest device. Then multiplies bytes a parameter for models that do not fit here.
"""

import os

os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ['JAX_PLATFORMS'] = 'cpu'

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import cli, trees
from benchmarks.cli import markdown
from diffgrad_optax import diffgrad, quantize_state

DEVICES = (1, 4, 8)
BF16 = jnp.bfloat16
OPTIMIZERS = {
    'optax.adam': optax.adam(1e-3),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype=BF16),
    'diffgrad, bf16 state': diffgrad(
        1e-3, mu_dtype=BF16, nu_dtype=BF16, prev_grad_dtype=BF16
    ),
    'diffgrad, 8-bit state': quantize_state(diffgrad(1e-3)),
}


class Storage(NamedTuple):
    """Bytes for each parameter."""

    parameter: float
    gradient: float
    state: float

    def gigabytes(self, parameters: float, devices: int) -> float:
        """On each device, all of it split evenly."""
        return sum(self) * parameters / devices / 1e9


EIGHT_BITS = 3 * (1 + 4 / 128)  # a code, and a float32 scale for every 128
STORAGES = {
    'float32 state': Storage(4, 4, 12),
    'bf16 state': Storage(4, 4, 6),
    '8-bit state': Storage(4, 4, EIGHT_BITS),
    '8-bit state, the rest in bf16': Storage(2, 2, EIGHT_BITS),
}
MODELS = {'7B': 7e9, '70B': 70e9}
PODS = (8, 64, 512)


def fullest(tree: Any) -> int:
    """Bytes of the arrays of `tree` on the device that holds most of them."""
    held: Counter[Any] = Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def place(tree: Any, devices: int) -> Any:
    """Parameters shaped like `tree`, split along their first axes."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ('fsdp',))
    return jax.device_put(trees.full(tree), NamedSharding(mesh, P('fsdp')))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints two tables in Markdown."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    tree = trees.decoder(8, 512, 2048, 16384)
    print(f'{trees.count(tree):,} parameters, float32, MB on each device\n')
    rows = []
    for devices in DEVICES:
        params = place(tree, devices)
        grads = jax.jit(lambda params: jax.tree.map(jnp.square, params))(params)
        for name, optimizer in OPTIMIZERS.items():
            sizes = [
                fullest(held)
                for held in (params, grads, jax.jit(optimizer.init)(params))
            ]
            rows.append((name, str(devices), *(f'{s / 1e6:.1f}' for s in sizes)))
    print(markdown(('optimizer', 'devices', 'parameters', 'gradients', 'state'), rows))
    print('\nGB on each device for diffGrad, activations apart\n')
    header = ('', *(f'{name}, {pod}' for name in MODELS for pod in PODS))
    print(
        markdown(
            header,
            (
                (
                    name,
                    *(
                        f'{storage.gigabytes(size, pod):.1f}'
                        for size in MODELS.values()
                        for pod in PODS
                    ),
                )
                for name, storage in STORAGES.items()
            ),
        )
    )


if __name__ == '__main__':
    cli.run(main)
