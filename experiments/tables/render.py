r"""Draws up the diffGrad paper's tables beside the published ones, in Markdown.

python -m experiments.tables.render
python -m experiments.tables.render --scale small \
    --images 'CIFAR-10 recompressed as JPEG'
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.files import check_drawn, write_atomically
from experiments.lab.grid import last
from experiments.lab.record import Record
from experiments.lab.tables import ended, markdown, mean_with_error, summary
from experiments.tables.paper import BATCH_SIZES, TABLES, Cell, Row, Table, cells
from experiments.tables.scales import SCALES, Scale, configure

NAMES = {'digits': 'digits', 'cifar10': 'CIFAR-10', 'cifar100': 'CIFAR-100'}
NOT_RUN, NONE = 'not run', '–'


@dataclass(frozen=True)
class Settings:
    """Where the results are, and how to speak of them."""

    scale: Literal[*SCALES] = option('digits', 'of the runs to show')
    results: Path | None = option(
        None, 'the file of results; left out, tables-SCALE.jsonl in docs/results'
    )
    images: str | None = option(
        None, "what the images are, for the line above; left out, the data sets' names"
    )
    out: Path | None = option(
        None, 'the file to write; left out, beside the results, with .md'
    )


def accuracies(record: Record, scale: Scale, cell: Cell) -> dict[int, float]:
    """The last test accuracy (%) of each seed that was run, NaN where it diverged."""
    seeds = dict.fromkeys(run['settings']['seed'] for run in record.runs)
    found = {
        seed: record.find(configure(cell, scale, seed, None)) for seed in sorted(seeds)
    }
    return {
        seed: 100 * last([run['metrics']], 'test_accuracy')[0]
        for seed, run in found.items()
        if run is not None
    }


def with_count(values: Iterable[float]) -> str:
    """Mean ± sample standard deviation (count), and how many diverged."""
    return summary(list(values), 2, math.inf) or NOT_RUN


def as_published(value: float | None) -> str:
    return NONE if value is None else f'{value:.2f}'


def without_empty_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table less what the paper has nothing of."""
    columns = zip(header, *rows, strict=True)
    kept = [column for column in columns if set(column[1:]) != {NONE}]
    header, *rows = zip(*kept, strict=True)
    return markdown(header, rows)


def first_question(record: Record, scale: Scale, dataset: str) -> str:
    """The first table, with what each row has more than the control, seed by seed."""
    table = TABLES['first']

    def measured(row: Row) -> dict[int, float]:
        return accuracies(
            record, scale, Cell(dataset, 128, row.optimizer, row.activation)
        )

    (half,) = (measured(row) for row in table.rows if row.optimizer == 'adam-half')
    rows = []
    for row in table.rows:
        mine = measured(row)
        more = [mine[seed] - half[seed] for seed in mine.keys() & half.keys()]
        rows.append(
            (
                row.label,
                as_published(row.published(dataset)[BATCH_SIZES.index(128)]),
                with_count(mine.values()),
                NONE if row.optimizer == 'adam-half' else with_count(more),
            )
        )
    header = (
        f'{NAMES[dataset]}, batch 128',
        'published',
        'here',
        'here, minus half the rate',
    )
    return without_empty_columns(header, rows)


def all_pairs(record: Record, scale: Scale, dataset: str) -> str:
    """DiffGrad minus its control over the cells of all tables, in a sentence."""
    more = []
    for cell in dict.fromkeys(c for t in TABLES.values() for c in cells(t, dataset)):
        if cell.optimizer == 'diffgrad':
            mine = accuracies(record, scale, cell)
            half = accuracies(record, scale, cell._replace(optimizer='adam-half'))
            more += [mine[seed] - half[seed] for seed in mine.keys() & half.keys()]
    pairs = ended(more)
    sentence = (
        f'diffGrad minus Adam at half the rate on {NAMES[dataset]}, over all batch '
        'sizes, activations and seeds that both were run with'
    )
    parts = []
    if pairs:
        parts.append(
            f'{mean_with_error(pairs, 2)} points (mean ± standard error, '
            f'{len(pairs)} pairs)'
        )
    if diverged := len(more) - len(pairs):
        parts.append(f'{diverged} with a run that diverged')
    return f'{sentence}: {", ".join(parts) or NOT_RUN}.'


def full_table(record: Record, scale: Scale, table: Table, dataset: str) -> str:
    """Published and measured accuracies for every batch size."""
    header = [f'{NAMES[dataset]}, batch size']
    for size in BATCH_SIZES:
        header += [f'{size} published', f'{size} here']
    rows = []
    for row in table.rows:
        line = [row.label]
        for size, published in zip(BATCH_SIZES, row.published(dataset), strict=True):
            cell = Cell(dataset, size, row.optimizer, row.activation)
            mine = accuracies(record, scale, cell)
            line += [as_published(published), with_count(mine.values())]
        rows.append(line)
    return without_empty_columns(header, rows)


def provenance(record: Record, scale: Scale, images: str) -> str:
    """What the numbers are of, in a paragraph."""

    def among(values: Iterable[str | None]) -> str:
        return ', '.join(dict.fromkeys(str(value) for value in values))

    of_scale = dataclasses.asdict(scale)
    runs = [
        run
        for run in record.runs
        if all(run['settings'].get(name, it) == it for name, it in of_scale.items())
    ]
    train, test = (
        'all' if limit is None else f'the first {limit:,}'
        for limit in (scale.limit_train, scale.limit_test)
    )
    return (
        f'Test accuracy (%) on {images}: {scale.model} of width {scale.width}, '
        f'{train} training and {test} test images, {scale.epochs} epochs, '
        f'{scale.precision}. Mean ± sample standard deviation (number of seeds). '
        f'{len(runs)} runs on {among(d for run in runs for d in run["devices"])}; jax '
        f'{among(run["versions"]["jax"] for run in runs)}, flax '
        f'{among(run["versions"]["flax"] for run in runs)}, optax '
        f'{among(run["versions"]["optax"] for run in runs)}; commit '
        f'{among(run["commit"] for run in runs)}.'
    )


def render(record: Record, scale: Scale, images: str) -> str:
    """All the tables."""
    parts = [provenance(record, scale, images)]
    for name, table in TABLES.items():
        parts.append(f'### {table.title}')
        for dataset in scale.datasets:
            if dataset not in table.datasets:
                continue
            if name == 'first':
                parts.append(first_question(record, scale, dataset))
                parts.append(all_pairs(record, scale, dataset))
            else:
                parts.append(full_table(record, scale, table, dataset))
    return '\n\n'.join(parts) + '\n'


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    results = settings.results or Path(f'docs/results/tables-{settings.scale}.jsonl')
    if not results.exists():
        raise UserError(
            f'{results} does not exist: python -m experiments.tables.run first'
        )
    scale = SCALES[settings.scale]
    images = settings.images or ' and '.join(NAMES[name] for name in scale.datasets)
    text = render(Record(results), scale, images)
    out = settings.out or results.with_suffix('.md')
    check_drawn(results, out)
    write_atomically(out, text)
    print(f'{text}\nwritten to {out}')


if __name__ == '__main__':
    cli.run(main)
