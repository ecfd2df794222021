"""diffGrad beside Adam, other implementations and the memory's speed, in one process.

python -m benchmarks.compare
python -m benchmarks.compare --tree decoder --dtype bfloat16 --rounds 9
python -m benchmarks.compare --tree decoder --leave-out 'diffgrad, 8-bit state'
python -m benchmarks.compare --tree resnet50 --materialized

Each arm takes its turn on the same tree. For JAX a step makes the gradient and
updates (see `gradients.py`); the materialized gradient is timed alone too, and the
table subtracts it. For PyTorch a step is `optimizer.step()`. Writes every time to
benchmarks/results/ and prints the medians.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cli, jax_arms, results, torch_arms, trees
from benchmarks.gradients import GRADIENTS, factors, least_moved
from benchmarks.tables import show
from benchmarks.timing import Arm, interleave

COPY_SIZES = {'cpu': 2**26, 'gpu': 2**28}
DTYPES = ('float32', 'bfloat16')
ROUNDS = 5


def compare(
    tree: Any,
    *,
    rounds: int,
    calls: int,
    repeats: int,
    copy_size: int,
    compilations: int = 1,
    leave_out: Sequence[str] = (),
    gradients: Sequence[str] = tuple(GRADIENTS),
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Times everything on one tree.

    Args:
      tree: of shapes, all of one dtype.
      rounds: turns of each arm.
      calls: see `interleave`.
      repeats: updates in each program of JAX.
      copy_size: how many float32 numbers are copied.
      compilations: how often each of JAX's updates is compiled, in turns too.
      leave_out: names of JAX's optimizers that are not timed.
      gradients: names of those of JAX's updates, 'materialized' among them.
      say: hears what is left out.
    """
    thin = jax.jit(lambda: factors(tree))()
    param_bytes = jax.tree.leaves(tree)[0].dtype.itemsize
    arms: dict[Any, Arm] = {
        ('copy', 'jax'): jax_arms.copy_arm(copy_size),
        ('gradient', 'materialized'): jax_arms.gradient_arm(tree, thin, repeats),
    }
    rows: list[dict[str, Any]] = []

    def add(name: str, gradient: str, arm: Arm, state: int, **more: Any) -> None:
        moved = least_moved(param_bytes, state / trees.count(tree), gradient)
        arms[name, gradient] = arm
        rows.append({'name': name, 'gradient': gradient, 'bytes': moved, **more})

    combinations = [
        (name, gradient)
        for name in jax_arms.OPTIMIZERS
        if name not in leave_out
        for gradient in gradients
    ]
    programs: dict[Any, Any] = {}
    trace_seconds: dict[Any, list[float]] = {key: [] for key in combinations}
    compile_seconds: dict[Any, list[float]] = {key: [] for key in combinations}
    for _ in range(compilations):
        for name, gradient in combinations:
            compiled = jax_arms.compile_step(
                jax_arms.OPTIMIZERS[name], GRADIENTS[gradient], tree, thin, repeats
            )
            programs[name, gradient] = compiled.program
            trace_seconds[name, gradient].append(compiled.trace_seconds)
            compile_seconds[name, gradient].append(compiled.compile_seconds)
    for name, gradient in combinations:
        optimizer, program = jax_arms.OPTIMIZERS[name], programs[name, gradient]
        add(
            name,
            gradient,
            jax_arms.update_arm(program, optimizer, tree, thin, repeats),
            trees.nbytes(jax.eval_shape(optimizer.init, tree)),
            framework='jax',
            trace_seconds=trace_seconds[name, gradient],
            compile_seconds=compile_seconds[name, gradient],
        )
    others = torch_arms.working(tree, say)
    if others:
        arms['copy', 'torch'] = torch_arms.copy_arm(copy_size)
    for name, (make, state_bytes) in others.items():
        add(
            name,
            'in memory',
            torch_arms.update_arm(make, tree),
            state_bytes,
            framework='torch',
        )
    times = interleave(arms, rounds=rounds, calls=calls)
    for row in rows:
        row['seconds'] = times[row['name'], row['gradient']]
    return {
        'arrays': len(jax.tree.leaves(tree)),
        'parameters': trees.count(tree),
        'rounds': rounds,
        'calls': calls,
        'repeats': repeats,
        'copied_bytes': 8 * copy_size,
        'copy_seconds': {
            name: seconds for (kind, name), seconds in times.items() if kind == 'copy'
        },
        'gradient_seconds': times['gradient', 'materialized'],
        'arms': rows,
    }


def run(
    names: Sequence[str],
    dtypes: Sequence[str],
    rounds: int,
    compilations: int,
    leave_out: Sequence[str],
    gradients: Sequence[str],
    out_dir: Path,
    *,
    smoke: bool = False,
) -> None:
    """Compares on trees by name, each into a file of `out_dir`.

    With `smoke` on two small arrays in their place, whose numbers mean nothing.
    """
    backend = jax_arms.backend()
    for name, dtype in itertools.product(names, dtypes):
        tree = trees.smoke() if smoke else trees.TREES[name][backend]()
        tree = trees.cast(tree, jnp.dtype(dtype))
        measured = compare(
            tree,
            rounds=1 if smoke else rounds,
            calls=2 if smoke else jax_arms.calls_of(tree),
            repeats=2 if smoke else jax_arms.REPEATS[backend],
            copy_size=64 if smoke else COPY_SIZES[backend],
            compilations=1 if smoke else compilations,
            leave_out=leave_out,
            gradients=gradients,
            say=print,
        )
        save(name, dtype, measured, out_dir)


def save(tree: str, dtype: str, measured: dict[str, Any], out_dir: Path) -> None:
    """Writes a result and prints its tables."""
    result = {'tree': tree, 'dtype': dtype, **results.facts(), **measured}
    results.write(out_dir / f'update-{tree}-{dtype}.json', result)
    show(result)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tree', nargs='+', choices=trees.TREES, dest='trees')
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=DTYPES)
    parser.add_argument('--rounds', type=results.positive, default=ROUNDS)
    parser.add_argument(
        '--compilations',
        type=results.positive,
        default=1,
        help='of each update of JAX, in turns',
    )
    parser.add_argument(
        '--leave-out',
        nargs='+',
        default=(),
        choices=[name for name in jax_arms.OPTIMIZERS if name != 'optax.adam'],
        help='the 8-bit state takes minutes to compile for 1,000 arrays on a CPU',
    )
    parser.add_argument(
        '--materialized',
        dest='gradients',
        action='store_const',
        const=('materialized',),
        default=tuple(GRADIENTS),
        help='leaves the elementwise gradient out, which takes half of the time',
    )
    parser.add_argument('--out-dir', type=cli.path)
    parser.add_argument('--smoke', action='store_true', help='tiny, measures nothing')
    args = parser.parse_args(argv)
    # JAX takes most of a GPU's memory at once and PyTorch needs some of it too.
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.6')
    backend = jax_arms.backend()
    there = [name for name in trees.TREES if backend in trees.TREES[name]]
    names = args.trees or there
    if not args.smoke and (absent := set(names) - set(there)):
        raise cli.UserError(
            f'--tree {" ".join(sorted(absent))} is not for a {backend}, which has '
            f'{", ".join(there)}'
        )
    out_dir = results.folder(args.out_dir, backend, smoke=args.smoke)
    run(
        names,
        args.dtype,
        args.rounds,
        args.compilations,
        args.leave_out,
        args.gradients,
        out_dir,
        smoke=args.smoke,
    )


if __name__ == '__main__':
    cli.run(main)
