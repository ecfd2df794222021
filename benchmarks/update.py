"""What each optimizer costs: the time of an update and the bytes of its state.

python -m benchmarks.update

Times one compiled update of ResNet50's parameters (161 arrays) with parameters and
state donated, for each optimizer in turn. A step makes the gradient in memory and
updates; the gradient is timed alone too, and the table subtracts it. The first call is
what tracing and compiling take. How far this is from what the memory allows, and from
others' optimizers, `compare` says. Writes every time to benchmarks/results/ and prints
the medians.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import cli, results, trees
from benchmarks.gradients import factors, materialized
from benchmarks.jax_arms import (
    REPEATS,
    backend,
    calls_of,
    compile_step,
    gradient_arm,
    update_arm,
)
from benchmarks.tables import show
from benchmarks.timing import Arm, interleave
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

NAME = 'costs'
ROUNDS = 5
OPTIMIZERS = {
    'optax.adam': optax.adam(1e-3),
    'optax.sgd, momentum': optax.sgd(1e-3, 0.9),
    'optax.lion': optax.lion(1e-4, weight_decay=0.0),
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16 previous gradient': diffgrad(1e-3, prev_grad_dtype=jnp.bfloat16),
    'quantize_state(optax.adam)': quantize_state(optax.adam(1e-3)),
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


def measure(tree: Any, *, rounds: int, calls: int, repeats: int) -> dict[str, Any]:
    """Times an update with each optimizer.

    Args:
      tree: of shapes.
      rounds: turns of each arm.
      calls: see `interleave`.
      repeats: updates in each program.
    """
    thin = jax.jit(lambda: factors(tree))()
    arms: dict[str, Arm] = {'gradient': gradient_arm(tree, thin, repeats)}
    rows: list[dict[str, Any]] = []
    for name, optimizer in OPTIMIZERS.items():
        compiled = compile_step(optimizer, materialized, tree, thin, repeats)
        arms[name] = update_arm(compiled.program, optimizer, tree, thin, repeats)
        rows.append(
            {
                'name': name,
                'state_bytes': trees.nbytes(jax.eval_shape(optimizer.init, tree)),
                'trace_seconds': compiled.trace_seconds,
                'compile_seconds': compiled.compile_seconds,
            }
        )
    times = interleave(arms, rounds=rounds, calls=calls)
    for row in rows:
        row['seconds'] = times[row['name']]
    return {
        'arrays': len(jax.tree.leaves(tree)),
        'parameters': trees.count(tree),
        'rounds': rounds,
        'calls': calls,
        'repeats': repeats,
        'gradient_seconds': times['gradient'],
        'optimizers': rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=results.positive, default=ROUNDS)
    parser.add_argument('--out-dir', type=cli.path)
    parser.add_argument('--smoke', action='store_true', help='tiny, measures nothing')
    args = parser.parse_args(argv)
    out_dir = results.folder(args.out_dir, backend(), smoke=args.smoke)
    tree = trees.smoke() if args.smoke else trees.resnet50()
    measured = measure(
        tree,
        rounds=1 if args.smoke else args.rounds,
        calls=2 if args.smoke else calls_of(tree),
        repeats=2 if args.smoke else REPEATS[backend()],
    )
    result = {**results.facts(), **measured}
    results.write(out_dir / f'{NAME}.json', result)
    show(result)


if __name__ == '__main__':
    cli.run(main)
