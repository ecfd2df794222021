"""The tables of the page on performance that compare several results.

python -m benchmarks.summary
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cli
from benchmarks.cli import markdown
from benchmarks.records import costs_of, ratio, table, updates_of

RESULTS = Path(__file__).parent / 'results'
# By their names in results of `update` and of `compare`.
SHOWN = {
    'optax.adam': 'optax.adam',
    'diffgrad': 'diffgrad',
    'diffgrad, bf16 previous gradient': 'diffgrad, bf16 previous gradient',
    'quantize_state(diffgrad)': 'diffgrad, 8-bit state',
}
OTHERS = {
    'naive composition': 'naive composition',
    'torch.optim.Adam(fused=True)': 'PyTorch, fused Adam',
    'torch_optimizer.DiffGrad': 'torch_optimizer',
    'pytorch_optimizer.DiffGrad(foreach=True)': 'pytorch_optimizer',
}
# Device and parameters of each comparison with PyTorch.
COMPARED = {
    'gpu/update-array-float32': 'H200, 268 million in 1 array',
    'gpu/update-billion-float32': 'H200, 1,141 million in 145 arrays',
    'gpu/update-resnet50-float32': 'H200, 24 million in 161 arrays',
    'cpu-memory-kept/update-array-float32': 'CPU, 17 million in 1 array',
    'cpu-memory-kept/update-resnet50-float32': 'CPU, 24 million in 161 arrays',
}
MEASURED = {
    'gpu/throughput': 'H200, training step',
    'gpu/update-array-float32': 'H200, one large array',
    'gpu/update-billion-float32': 'H200, other updates',
    'cpu-memory-kept/costs': 'CPU, updates',
    'cpu/throughput': 'CPU, training step, 1,000 arrays',
}
ALLOCATORS = {'tuned': 'cpu-memory-kept', 'default': 'cpu'}


def read(name: str) -> dict[str, Any]:
    """A result, by its path without the ending."""
    return json.loads((RESULTS / f'{name}.json').read_text(encoding='utf-8'))


def overview() -> str:
    """Memory and time of diffGrad's update on both devices."""
    costs = costs_of(read('cpu-memory-kept/costs'))
    on_gpu = updates_of(read('gpu/update-billion-float32'))
    adam = on_gpu['optax.adam', 'materialized']
    rows = []
    for name, in_comparison in SHOWN.items():
        state, seconds = costs[name]
        there = on_gpu[in_comparison, 'materialized']
        rows.append(
            (
                name,
                f'{state:.1f}',
                f'{1e3 * there:.1f}',
                ratio(there, adam),
                f'{1e3 * seconds:.1f}',
                ratio(seconds, costs['optax.adam'][1]),
            )
        )
    header = (
        'optimizer',
        'state (bytes per parameter) ↓',
        'H200 (ms) ↓',
        '× optax.adam ↓',
        'CPU (ms) ↓',
        '× optax.adam ↓',
    )
    return table(header, rows)


def against_others() -> str:
    """Other implementations' time of an update over diffGrad's, in the same process."""
    rows = []
    for name, label in COMPARED.items():
        updates = {name: seconds for (name, _), seconds in timed(name).items()}
        rows.append((label, *(ratio(updates[x], updates['diffgrad']) for x in OTHERS)))
    return table(('device, parameters', *OTHERS.values()), rows)


def timed(name: str) -> dict[tuple[str, str], float]:
    """Updates with the gradient in memory."""
    return {
        key: seconds
        for key, seconds in updates_of(read(name)).items()
        if key[1] != 'elementwise'
    }


def steps_by_allocator() -> str:
    """Steps on a CPU, gradient included, by settings of malloc."""
    columns: dict[str, dict[str, str]] = {}
    for allocator, folder in ALLOCATORS.items():
        for arm in read(f'{folder}/update-resnet50-float32')['arms']:
            if arm['framework'] == 'jax':
                column = columns.setdefault(f'{allocator}, {arm["gradient"]} ↓', {})
                column[arm['name']] = f'{1e3 * median(arm["seconds"]):.1f}'
    names = next(iter(columns.values()))
    rows = [(name, *(column[name] for column in columns.values())) for name in names]
    return table(('step (ms)', *columns), rows)


def training_by_allocator() -> str:
    """Training steps on a CPU, by settings of malloc."""
    tuned, default = (read(f'{folder}/throughput') for folder in ALLOCATORS.values())
    rows = [
        (name, *(milliseconds(result, name) for result in (tuned, default)))
        for name in tuned['seconds']
    ]
    return table(('training step (ms)', *(f'{name} ↓' for name in ALLOCATORS)), rows)


def milliseconds(result: dict[str, Any], name: str) -> str:
    """The median training step of a result of `throughput`."""
    return f'{1e3 * median(result["seconds"][name]) / result["steps"]:.0f}'


def versions() -> str:
    """With what the times were measured."""
    rows = []
    for name, label in MEASURED.items():
        result = read(name)
        used = result['versions']
        commit = result['commit'].removesuffix('-dirty')
        rows.append((label, commit, used['jax'], used['torch']))
    return markdown(('device', 'commit', 'jax', 'torch'), rows)


TABLES = (
    overview,
    against_others,
    steps_by_allocator,
    training_by_allocator,
    versions,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    for draw in TABLES:
        print(f'{draw.__doc__}\n\n{draw()}\n')


if __name__ == '__main__':
    cli.run(main)
