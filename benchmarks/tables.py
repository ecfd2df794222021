"""The Markdown tables that are made from results.

python -m benchmarks.tables benchmarks/results/*/*.json
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from operator import truediv
from statistics import median
from typing import Any

from benchmarks import cli
from benchmarks.cli import markdown
from benchmarks.gradients import least_moved


def title(result: dict[str, Any]) -> str:
    """What was measured, with what."""
    versions = result['versions']
    return ', '.join(
        (
            result['device'],
            f'jax {versions["jax"]}',
            f'torch {versions.get("torch", "missing")}',
            f'commit {result["commit"]}',
            *(f'{name}={value}' for name, value in result['malloc'].items()),
        )
    )


def update_table(result: dict[str, Any]) -> str:
    """Of a result of `compare`."""
    gradient = median(result['gradient_seconds'])
    bandwidth = {
        framework: result['copied_bytes'] / median(seconds)
        for framework, seconds in result['copy_seconds'].items()
    }
    updates = {
        (arm['name'], arm['gradient']): median(arm['seconds'])
        # PyTorch's gradients and those that are fused cost nothing apart.
        - (gradient if arm['gradient'] == 'materialized' else 0.0)
        for arm in result['arms']
    }
    compiled = {
        arm['name']: arm for arm in result['arms'] if arm['gradient'] == 'materialized'
    }
    rows = []
    for arm in result['arms']:
        update = updates[arm['name'], arm['gradient']]
        fused = arm['gradient'] == 'elementwise'
        adam = updates['optax.adam', 'elementwise' if fused else 'materialized']
        floor = arm['bytes'] * result['parameters'] / bandwidth[arm['framework']]
        rows.append(
            (
                arm['name'],
                arm['gradient'],
                f'{1e3 * median(arm["seconds"]):.2f}',
                f'{1e3 * update:.2f}',
                ratio(update, adam),
                f'{arm["bytes"]:.1f}',
                f'{1e3 * floor:.2f}',
                ratio(floor, update),
            )
        )
    copies = ', '.join(
        f'{framework} {rate / 1e9:.1f} GB/s' for framework, rate in bandwidth.items()
    )
    return '\n'.join(
        (
            f'{result["tree"]}, {result["dtype"]}: {result["parameters"]:,} numbers in '
            f'{result["arrays"]} arrays; {title(result)}',
            f'copy: {copies}; materialized gradient alone: {1e3 * gradient:.2f} ms\n',
            markdown(
                (
                    'optimizer',
                    'gradient',
                    'step (ms)',
                    'update (ms)',
                    '× optax.adam',
                    'bytes/parameter',
                    'floor (ms)',
                    'reached',
                ),
                rows,
            ),
            '',
            markdown(
                ('optimizer', 'trace (s)', 'compile (s)', '× optax.adam'),
                [
                    (
                        name,
                        f'{median(arm["trace_seconds"]):.2f}',
                        f'{median(arm["compile_seconds"]):.2f}',
                        by_turns(arm, compiled['optax.adam'], 'compile_seconds'),
                    )
                    for name, arm in compiled.items()
                ],
            ),
        )
    )


def throughput_table(result: dict[str, Any]) -> str:
    """Of a result of `throughput`."""
    rows = []
    for name, seconds in result['seconds'].items():
        step = median(seconds) / result['steps']
        rate = result['batch_size'] / step
        peak = 1e12 * (result['peak_tflops'] or 0.0)
        used = ratio(rate * result['flops_per_image'], peak)
        rows.append((name, f'{1e3 * step:.2f}', f'{rate:,.0f}', used))
    header = ('training step', 'ms', 'images/s', 'utilisation')
    return '\n'.join(
        (
            f'ResNet50, batch {result["batch_size"]}, {result["dtype"]}, images from '
            f'{result["images"]}; {title(result)}\n',
            markdown(header, rows),
        )
    )


def costs_table(result: dict[str, Any]) -> str:
    """Of a result of `update`."""
    numbers, gradient = result['parameters'], median(result['gradient_seconds'])
    updates = {
        row['name']: median(row['seconds']) - gradient for row in result['optimizers']
    }
    rows = []
    for row in result['optimizers']:
        update = updates[row['name']]
        rows.append(
            (
                row['name'],
                f'{row["state_bytes"] / numbers:.1f}',
                f'{1e3 * update:.1f}',
                ratio(update, updates['optax.adam']),
                f'{row["trace_seconds"] + row["compile_seconds"]:.0f}',
            )
        )
    header = (
        'optimizer',
        'state (bytes/parameter)',
        'update (ms)',
        '× optax.adam',
        'first call (s)',
    )
    return '\n'.join(
        (
            f'{numbers:,} numbers in {result["arrays"]} arrays; {title(result)}',
            f'medians of {len(result["gradient_seconds"])} samples; materialized '
            f'gradient alone, subtracted: {1e3 * gradient:.2f} ms\n',
            markdown(header, rows),
        )
    )


def compiled_table(result: dict[str, Any]) -> str:
    """Of a result of `compiled`."""
    numbers = result['parameters']
    adam = {
        row['gradient']: row['moved_bytes']
        for row in result['rows']
        if row['name'] == 'optax.adam'
    }
    rows = []
    for row in result['rows']:
        least = least_moved(4, row['state_bytes'] / numbers, row['gradient'])
        rows.append(
            (
                row['name'],
                row['gradient'],
                str(row['kernels']),
                f'{row["moved_bytes"] / numbers:.1f}',
                f'{least:.1f}',
                ratio(row['moved_bytes'], adam[row['gradient']]),
                f'{row["copied_bytes"] / numbers:.1f}',
                f'{row["cached_bytes"] / numbers:.1f}',
                f'{row["temporary_bytes"] / numbers:.1f}',
            )
        )
    header = (
        'optimizer',
        'gradient',
        'kernels',
        'bytes/parameter',
        'at least',
        '× optax.adam',
        'of it copies',
        'of it cached',
        'temporary',
    )
    return '\n'.join(
        (
            f'{result["tree"]}: {numbers:,} numbers in {result["arrays"]} arrays, for '
            f'{result["target"]}; jax {result["versions"]["jax"]}, '
            f'commit {result["commit"]}\n',
            markdown(header, rows),
        )
    )


def correctness_table(result: dict[str, Any]) -> str:
    """Of a result of `correctness`."""
    failed = Counter(name.partition('::')[0] for name in result['failed'])
    rows = [
        (name, str(result['passed'].get(name, 0)), str(failed[name]))
        for name in sorted({*result['passed'], *failed})
    ]
    return '\n'.join(
        (
            f'{title(result)}\n',
            markdown(('tests', 'passed', 'failed'), rows),
            *(f'- `{name}`: {said}' for name, said in result['failed'].items()),
        )
    )


def by_turns(arm: dict[str, Any], other: dict[str, Any], key: str) -> str:
    """The median quotient of two arms' times in the same turn.

    A process compiles more slowly the more it has compiled.
    """
    return f'{median(map(truediv, arm[key], other[key])):.2f}'


def ratio(a: float, b: float) -> str:
    """A quotient; nothing where noise has left no divisor."""
    return f'{a / b:.2f}' if b > 0 else '–'


def table_of(result: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    """What draws a result."""
    if 'target' in result:
        return compiled_table
    if 'optimizers' in result:
        return costs_table
    if 'passed' in result:
        return correctness_table
    return update_table if 'tree' in result else throughput_table


def show(result: dict[str, Any]) -> None:
    """Prints the table of a result, and an empty line."""
    print(table_of(result)(result), end='\n\n', flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of each file named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='+', type=cli.path, help='results in JSON')
    for path in parser.parse_args(argv).files:
        try:
            result = json.loads(path.read_text(encoding='utf-8'))
            table = table_of(result)(result)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise cli.UserError(f'{path} is no result of a benchmark') from error
        print(table, end='\n\n', flush=True)


if __name__ == '__main__':
    cli.run(main)
