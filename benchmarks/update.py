"""What each optimizer costs: the time of an update and the bytes of its state.

python -m benchmarks.update

Times one jitted update of ResNet50's parameters (161 arrays) with parameters and
state donated and the gradient made inside the step, for each optimizer in turn, and
prints the medians. The first call of each traces and compiles it too.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffrgrad,
    gradient_dropout,
    learning_rate_dropout,
    mars,
    scale_by_gains,
    swats,
    with_friction,
)
from examples.cifar.model import ACTIVATIONS, MODELS

ROUNDS = 15
OPTIMIZERS = {
    'optax.adam': optax.adam(1e-3),
    'optax.sgd, momentum': optax.sgd(1e-3, 0.9),
    'optax.lion': optax.lion(1e-4, weight_decay=0.0),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype=jnp.bfloat16),
    'diffgrad, dfc3': diffgrad(1e-3, friction='dfc3'),
    'diffgrad, relative_dfc': diffgrad(1e-3, friction='relative_dfc'),
    'diffrgrad': diffrgrad(1e-3),
    'with_friction(optax.lion)': with_friction(optax.lion(1e-4, weight_decay=0.0)),
    'adadiff': adadiff(1e-3),
    'adadiff, amsgrad': adadiff(1e-3, amsgrad=True),
    'mars': mars(1e-3),
    'swats': swats(1e-3),
    'scale_by_gains, optax.sgd, momentum': optax.chain(
        scale_by_gains(), optax.sgd(1e-3, 0.9)
    ),
    'gradient_dropout, optax.adam': optax.chain(
        gradient_dropout(0.9, key=0), optax.adam(1e-3)
    ),
    'optax.adam, learning_rate_dropout': optax.chain(
        optax.adam(1e-3), learning_rate_dropout(0.5, key=0)
    ),
}


def resnet50_params() -> Any:
    """Parameters of the paper's network: 23,520,842 numbers in 161 arrays."""

    def build() -> nnx.Module:
        return MODELS['resnet50'](
            image_shape=(32, 32, 3),
            classes=10,
            width=64,
            activation=ACTIVATIONS['relu'],
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )

    shapes = nnx.as_pure(nnx.state(nnx.eval_shape(build), nnx.Param))
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes)


def make_step(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """One update; the gradient costs a pass over the parameters."""

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda leaf: leaf * leaf + 1e-3, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def main() -> None:
    """Prints a table in Markdown."""
    programs, carries, sizes, first_calls = {}, {}, {}, {}
    count = 0
    for name, optimizer in OPTIMIZERS.items():
        params = resnet50_params()
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        state = optimizer.init(params)
        sizes[name] = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / count
        programs[name] = make_step(optimizer)
        start = time.perf_counter()
        carries[name] = jax.block_until_ready(programs[name](params, state))
        first_calls[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            jax.block_until_ready(carries[name])
            start = time.perf_counter()
            carries[name] = jax.block_until_ready(program(*carries[name]))
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    device = jax.devices()[0].device_kind
    print(f'{count:,} parameters, jax {jax.__version__}, {device}, {ROUNDS} rounds\n')
    print(
        '| optimizer | state (bytes/parameter) | update (ms) | × optax.adam '
        '| first call (s) |'
    )
    print('|---|---:|---:|---:|---:|')
    for name, median in medians.items():
        ratio = median / medians['optax.adam']
        print(
            f'| {name} | {sizes[name]:.1f} | {1e3 * median:.0f} | {ratio:.2f} '
            f'| {first_calls[name]:.0f} |'
        )


if __name__ == '__main__':
    main()
