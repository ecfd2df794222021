"""What each optimizer costs: the time of an update and the bytes of its state.

python -m benchmarks.update

Times one compiled update of ResNet50's parameters (161 arrays) with parameters and
state donated and an elementwise gradient inside, for each optimizer in turn, and
prints the medians. The first call is what tracing and compiling take. How far this
is from what the memory allows, and from others' optimizers, `compare` says.
"""

import statistics

import jax
import jax.numpy as jnp
import optax

from benchmarks import trees
from benchmarks.gradients import elementwise, factors
from benchmarks.jax_arms import compile_step, update_arm
from benchmarks.tables import markdown
from benchmarks.timing import SAMPLES, interleave
from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffrgrad,
    gradient_dropout,
    learning_rate_dropout,
    mars,
    quantize_state,
    scale_by_gains,
    swats,
    with_friction,
)

ROUNDS = 5
OPTIMIZERS = {
    'optax.adam': optax.adam(1e-3),
    'optax.sgd, momentum': optax.sgd(1e-3, 0.9),
    'optax.lion': optax.lion(1e-4, weight_decay=0.0),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype=jnp.bfloat16),
    'quantize_state(diffgrad)': quantize_state(diffgrad(1e-3)),
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


def main() -> None:
    """Prints a table in Markdown."""
    tree = trees.resnet50()
    thin = factors(tree)
    first_calls, arms, sizes = {}, {}, {}
    for name, optimizer in OPTIMIZERS.items():
        compiled = compile_step(optimizer, elementwise, tree, thin)
        first_calls[name] = compiled.trace_seconds + compiled.compile_seconds
        arms[name] = update_arm(compiled.program, optimizer, tree, thin)
        state = jax.eval_shape(optimizer.init, tree)
        sizes[name] = trees.nbytes(state) / trees.count(tree)
    times = interleave(arms, rounds=ROUNDS, calls=1)
    medians = {name: statistics.median(values) for name, values in times.items()}
    device = jax.devices()[0].device_kind
    print(
        f'{trees.count(tree):,} parameters, jax {jax.__version__}, {device}, '
        f'{ROUNDS * SAMPLES} samples\n'
    )
    rows = (
        (
            name,
            f'{sizes[name]:.1f}',
            f'{1e3 * median:.0f}',
            f'{median / medians["optax.adam"]:.2f}',
            f'{first_calls[name]:.0f}',
        )
        for name, median in medians.items()
    )
    header = (
        'optimizer',
        'state (bytes/parameter)',
        'update (ms)',
        '× optax.adam',
        'first call (s)',
    )
    print(markdown(header, rows))


if __name__ == '__main__':
    main()
