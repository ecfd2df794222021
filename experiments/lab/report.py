"""What the runs of a plan came to: tables in Markdown and pictures."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.lab.curves import draw_curves
from experiments.lab.grid import Metrics, last
from experiments.lab.plans import Plan, Row, Table
from experiments.lab.record import Record
from experiments.lab.tables import ended, markdown, mean_with_error, of_seeds, summary

NOT_RUN = 'not run'

# Of each metric: words, what it is multiplied by, digits.
METRICS = {
    'train_loss': ('training loss', 1.0, 4),
    'test_loss': ('test loss', 1.0, 4),
    'test_accuracy': ('test accuracy (%)', 100.0, 2),
}


class Results:
    """The runs of a plan that a record holds.

    Args:
      plan: what is shown.
      record: of the runs.
      configure: makes the configuration of a run from its settings.
    """

    def __init__(
        self, plan: Plan, record: Record, configure: Callable[[dict[str, Any]], Any]
    ) -> None:
        self.plan = plan
        self.record = record
        self.configure = configure
        self.seeds = sorted({run['settings']['seed'] for run in record.runs})

    def find(self, dataset: str, size: int, row: Row) -> dict[int, dict[str, Any]]:
        """The runs of a cell, by their seed."""
        found = {
            seed: self.record.find(
                self.configure(self.plan.settings(dataset, size, row, seed))
            )
            for seed in self.seeds
        }
        return {seed: run for seed, run in found.items() if run is not None}

    def values(
        self, dataset: str, size: int, row: Row, metric: str = 'test_accuracy'
    ) -> dict[int, float]:
        """The metric after the last epoch, by the seed; NaN of runs that diverged."""
        _, factor, _ = METRICS[metric]
        runs = self.find(dataset, size, row)
        values = last([run['metrics'] for run in runs.values()], metric)
        return {seed: factor * x for seed, x in zip(runs, values, strict=True)}

    def all(self) -> list[dict[str, Any]]:
        """Every run that is shown, once."""
        runs = itertools.chain.from_iterable(
            self.find(dataset, size, row).values()
            for _, dataset, size, row in self.plan.cells()
        )
        return list({id(run): run for run in runs}.values())


def report(results: Results, images: str | None = None) -> str:
    """All tables.

    Args:
      results: what there is.
      images: what the images are, if the names of the data sets do not say it.
    """
    parts = [conditions(results, images)]
    for table in results.plan.tables:
        parts += [f'### {table.title}'] if table.title else []
        parts += [table_of(results, table, dataset) for dataset in table.datasets]
    if results.plan.paired:
        datasets = dict.fromkeys(cell[1] for cell in results.plan.cells())
        parts += [paired_difference(results, dataset) for dataset in datasets]
    return '\n\n'.join(parts) + '\n'


def conditions(results: Results, images: str | None) -> str:
    """How the numbers were made, in a paragraph."""
    scale, runs = results.plan.scale, results.all()

    def distinct(values: Iterable[Any]) -> str:
        return ', '.join(dict.fromkeys(map(str, values)))

    train, test = (
        'all' if limit is None else f'the first {limit:,}'
        for limit in (scale.get('limit_train'), scale.get('limit_test'))
    )
    datasets = distinct(cell[1] for cell in results.plan.cells())
    versions = ', '.join(
        f'{name} {distinct(run["versions"].get(name) for run in runs)}'
        for name in ('jax', 'flax', 'optax')
    )
    return (
        f'{scale["model"]} of width {scale.get("width", 64)} on {images or datasets}, '
        f'{train} training and {test} test images, {scale["epochs"]} epochs. Mean ± '
        'sample standard deviation of the last epoch (number of seeds). '
        f'{len(runs)} runs on {distinct(d for run in runs for d in run["devices"])}; '
        f'{versions}; commit {distinct(run.get("commit") for run in runs)}.'
    )


def table_of(results: Results, table: Table, dataset: str) -> str:
    """A column of each batch size and metric, with what was published beside it."""
    one_size = len(table.batch_sizes) == 1
    sizes = f'batch {table.batch_sizes[0]}' if one_size else 'batch size'
    columns = [[f'{dataset}, {sizes}', *(row.label for row in table.rows)]]
    for index, size in enumerate(table.batch_sizes):
        if any(dataset in row.published for row in table.rows):
            title = 'published' if one_size else f'{size} published'
            values = [row.published.get(dataset) for row in table.rows]
            cells = [f'{of_row[index]:.2f}' if of_row else '–' for of_row in values]
            columns.append([title, *cells])
        for metric in results.plan.metrics:
            columns += measured(results, table, dataset, size, metric)
    header, *rows = zip(*columns, strict=True)
    return markdown(header, rows)


def measured(
    results: Results, table: Table, dataset: str, size: int, metric: str
) -> list[list[str]]:
    """A column of a metric, and if the table has a baseline one of differences."""
    words, _, digits = METRICS[metric]
    title = words if len(table.batch_sizes) == 1 else f'{size} here'
    values = {
        row.label: results.values(dataset, size, row, metric) for row in table.rows
    }

    def column(title: str, cells: Mapping[str, Mapping[int, float]]) -> list[str]:
        return [
            title,
            *(
                summary(list(cell.values()), digits, math.inf) or NOT_RUN
                for cell in cells.values()
            ),
        ]

    columns = [column(title, values)]
    if table.baseline is not None:
        (base,) = (
            row.label
            for row in table.rows
            if row.settings['optimizer'] == table.baseline
        )
        more = {label: difference(x, values[base]) for label, x in values.items()}
        title, *cells = column(f'minus {base}', more | {base: {}})
        columns.append([title, *('–' if cell == NOT_RUN else cell for cell in cells)])
    return columns


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> dict[int, float]:
    """Seed by seed, of those that both have."""
    return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}


def paired_difference(results: Results, dataset: str) -> str:
    """The plan's pair over all cells that both were run in, in a sentence."""
    name, other = results.plan.paired
    cells = {}
    for _, of, size, row in results.plan.cells():
        if of == dataset and row.settings['optimizer'] == name:
            cells[size, str(row.settings)] = size, row
    more: list[float] = []
    for size, row in cells.values():
        theirs = Row(other, {**row.settings, 'optimizer': other}, {})
        more += difference(
            results.values(dataset, size, row), results.values(dataset, size, theirs)
        ).values()
    pairs, parts = ended(more), []
    if pairs:
        error = mean_with_error(pairs, 2)
        parts.append(f'{error} points (mean ± standard error, {len(pairs)} pairs)')
    if diverged := len(more) - len(pairs):
        parts.append(f'{diverged} with a run that diverged')
    return (
        f'{name} minus {other} on {dataset}, over all batch sizes, activations and '
        f'seeds that both were run with: {", ".join(parts) or NOT_RUN}.'
    )


def draw(results: Results, table: Table, dataset: str, path: Path) -> None:
    """Draws the curves of a table of one batch size: mean and standard deviation."""
    (size,), curves = table.batch_sizes, {}
    for row in table.rows:
        runs = results.find(dataset, size, row).values()
        finished: list[Metrics] = [run['metrics'] for run in runs if run['metrics']]
        if finished:
            diverged = len(runs) - len(finished)
            label = f'{row.label}, {diverged} diverged' if diverged else row.label
            curves[label] = finished
    if curves:
        scale, seeds = results.plan.scale, max(map(len, curves.values()))
        title = f'{scale["model"]} on {dataset}, batch {size}, {of_seeds(seeds)}'
        draw_curves(path, curves, title)
