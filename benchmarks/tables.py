"""The Markdown tables that are made from results.

python -m benchmarks.tables benchmarks/results/*/*.json
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks import cli
from benchmarks.cli import markdown
from benchmarks.gradients import least_moved
from benchmarks.records import bandwidths, by_turns, costs_of, ratio, table, updates_of


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


def update_rows(
    result: dict[str, Any], gradients: Sequence[str]
) -> list[tuple[str, ...]]:
    """The optimizers of a result of `compare` whose gradient is one of these."""
    updates, bandwidth = updates_of(result), bandwidths(result)
    rows = []
    for arm in result['arms']:
        if arm['gradient'] in gradients:
            update = updates[arm['name'], arm['gradient']]
            floor = arm['bytes'] * result['parameters'] / bandwidth[arm['framework']]
            rows.append(
                (
                    arm['name'],
                    f'{1e3 * median(arm["seconds"]):.2f}',
                    f'{1e3 * update:.2f}',
                    ratio(update, updates['optax.adam', gradients[0]]),
                    f'{arm["bytes"]:.1f}',
                    ratio(floor, update),
                )
            )
    return rows


def compilation_table(result: dict[str, Any]) -> str:
    """Tracing and compiling the materialized step, of a result of `compare`."""
    arms = [arm for arm in result['arms'] if arm['gradient'] == 'materialized']
    adam = next(arm for arm in arms if arm['name'] == 'optax.adam')
    rows = [
        (
            arm['name'],
            f'{median(arm["trace_seconds"]):.2f}',
            f'{median(arm["compile_seconds"]):.2f}',
            by_turns(arm, adam, 'compile_seconds'),
        )
        for arm in arms
    ]
    return table(('optimizer', 'trace (s) ↓', 'compile (s) ↓', '× optax.adam ↓'), rows)


def update_table(result: dict[str, Any]) -> str:
    """Of a result of `compare`."""
    header = (
        'optimizer',
        'step (ms) ↓',
        'update (ms) ↓',
        '× optax.adam ↓',
        'bytes per parameter ↓',
        'of a copy’s speed ↑',
    )
    copies = ', '.join(
        f'{framework} {rate / 1e9:.1f} GB/s'
        for framework, rate in bandwidths(result).items()
    )
    gradient = median(result['gradient_seconds'])
    parts = [
        f'{result["tree"]}, {result["dtype"]}: {result["parameters"]:,} elements in '
        f'{result["arrays"]} arrays; {title(result)}\n'
        f'copy: {copies}; materialized gradient alone: {1e3 * gradient:.2f} ms',
        table(header, update_rows(result, ('materialized', 'in memory'))),
    ]
    if fused := update_rows(result, ('elementwise',)):
        parts += ['gradient fused with the update:', table(header, fused)]
    return '\n\n'.join((*parts, compilation_table(result)))


def throughput_table(result: dict[str, Any]) -> str:
    """Of a result of `throughput`."""
    rows = []
    for name, seconds in result['seconds'].items():
        step = median(seconds) / result['steps']
        rate = result['batch_size'] / step
        peak = 1e12 * (result['peak_tflops'] or 0.0)
        used = ratio(rate * result['flops_per_image'], peak)
        rows.append((name, f'{1e3 * step:.2f}', f'{rate:,.0f}', used))
    header = ('training step', 'ms ↓', 'images/s ↑', 'utilization ↑')
    return (
        f'ResNet50, batch {result["batch_size"]}, {result["dtype"]}, images from '
        f'{result["images"]}; {title(result)}\n\n{table(header, rows)}'
    )


def costs_table(result: dict[str, Any]) -> str:
    """Of a result of `update`."""
    costs = costs_of(result)
    rows = []
    for row in result['optimizers']:
        state, update = costs[row['name']]
        rows.append(
            (
                row['name'],
                f'{state:.1f}',
                f'{1e3 * update:.1f}',
                ratio(update, costs['optax.adam'][1]),
                f'{row["trace_seconds"] + row["compile_seconds"]:.0f}',
            )
        )
    header = (
        'optimizer',
        'state (bytes per parameter) ↓',
        'update (ms) ↓',
        '× optax.adam ↓',
        'first call (s) ↓',
    )
    return (
        f'{result["parameters"]:,} elements in {result["arrays"]} arrays; '
        f'{title(result)}\nmedians of {len(result["gradient_seconds"])} samples; '
        'materialized gradient alone, subtracted: '
        f'{1e3 * median(result["gradient_seconds"]):.2f} ms\n\n{table(header, rows)}'
    )


def compiled_rows(
    result: dict[str, Any], gradient: str
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Head and rows of a result of `compiled`, for one kind of gradient."""
    numbers = result['parameters']
    arms = [row for row in result['rows'] if row['gradient'] == gradient]
    adam = next(row['moved_bytes'] for row in arms if row['name'] == 'optax.adam')
    rows = []
    for row in arms:
        least = least_moved(4, row['state_bytes'] / numbers, gradient)
        rows.append(
            (
                row['name'],
                str(row['kernels']),
                f'{row["moved_bytes"] / numbers:.1f}',
                f'{least:.1f}',
                ratio(row['moved_bytes'], adam),
                f'{row["cached_bytes"] / numbers:.1f}',
                f'{row["temporary_bytes"] / numbers:.1f}',
            )
        )
    header = [
        'optimizer',
        'kernels ↓',
        'bytes per parameter ↓',
        'at least',
        '× optax.adam ↓',
        'from cache',
        'temporary ↓',
    ]
    return header, rows


def compiled_table(result: dict[str, Any]) -> str:
    """Of a result of `compiled`."""
    head = (
        f'{result["tree"]}: {result["parameters"]:,} elements in {result["arrays"]} '
        f'arrays, for {result["target"]}; jax {result["versions"]["jax"]}, '
        f'commit {result["commit"]}'
    )
    parts = [
        f'{gradient} gradient:\n\n{table(*compiled_rows(result, gradient))}'
        for gradient in ('materialized', 'elementwise')
    ]
    return '\n\n'.join((head, *parts))


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
