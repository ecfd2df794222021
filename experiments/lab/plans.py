"""Plans: which runs are compared and tabled, as data in a TOML file.

    seeds = [0]
    metrics = ["test_accuracy"]

    [scales.digits]  # settings that all runs share; the first scale is the default
    datasets = ["digits"]
    model = "resnet18"

    [[tables]]
    name = "first"
    title = "Is it only Adam at half the learning rate?"
    batch_sizes = [128]  # left out, the scale's
    datasets = ["cifar10", "digits"]  # left out, all of the scale
    baseline = "adam-half"  # subtracted from the others, seed by seed
    rows = [
        { label = "Adam", optimizer = "adam", published.cifar10 = [93.72] },
        { label = "Adam, half the rate", optimizer = "adam-half" },
    ]

What a row has besides `label` and `published` are settings of its runs.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.lab.cli import UserError


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    settings: Mapping[str, Any]
    published: Mapping[str, Sequence[float]]  # by data set, for each batch size


@dataclass(frozen=True)
class Table:
    """Runs that are shown together."""

    name: str
    title: str
    rows: tuple[Row, ...]
    batch_sizes: tuple[int, ...]
    datasets: tuple[str, ...]
    baseline: str | None = None  # an optimizer


@dataclass(frozen=True)
class Plan:
    """Which runs are compared."""

    name: str  # of its file of results
    part: str  # appended to the names of tables and pictures: which tables, if not all
    scale: Mapping[str, Any]  # settings of all runs
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    paired: tuple[str, ...] = ()  # two optimizers, subtracted over all tables

    def cells(self) -> Iterator[tuple[Table, str, int, Row]]:
        """What the runs of one number share, in the order of their value.

        All tables of the first data set come first, and of each table the largest
        batches, which are the fastest.
        """
        for dataset in dict.fromkeys(
            d for table in self.tables for d in table.datasets
        ):
            for table in self.tables:
                if dataset in table.datasets:
                    for size in sorted(table.batch_sizes, reverse=True):
                        for row in table.rows:
                            yield table, dataset, size, row

    def settings(self, dataset: str, size: int, row: Row, seed: int) -> dict[str, Any]:
        """What one run is told."""
        cell = {'dataset': dataset, 'batch_size': size, 'seed': seed}
        return {**self.scale, **row.settings, **cell}

    def runs(self) -> dict[str, dict[str, Any]]:
        """The settings of every run by its name; a table with each seed, then the next.

        Runs that tables share have one name.
        """
        named = {}
        for _, cells in itertools.groupby(self.cells(), lambda cell: cell[:2]):
            of_table = list(cells)
            for seed in self.seeds:
                for _, dataset, size, row in of_table:
                    cell = dataset, size, *row.settings.values(), f'seed{seed}'
                    told = self.settings(dataset, size, row, seed)
                    named['-'.join(map(str, cell))] = told
        return named

    def tiny(self, settings: Mapping[str, Any]) -> 'Plan':
        """Two runs with other `settings`, to see that everything works."""
        table = dataclasses.replace(
            self.tables[0],
            rows=self.tables[0].rows[:2],
            datasets=('digits',),
            baseline=None,
        )
        scale = {**self.scale, **settings}
        return dataclasses.replace(self, tables=(table,), scale=scale, paired=())


def load(
    path: Path,
    *,
    scale: str | None = None,
    tables: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """Reads a plan, or the part of it that is named.

    Args:
      path: of the TOML file.
      scale: one of its scales, by default the first.
      tables: the names of some tables, by default all.
      datasets: some of the scale's, by default all.
      seeds: by default those of the file.

    Raises:
      UserError: if the file is no plan, or lacks what is named.
    """
    try:
        file = tomllib.loads(path.read_text(encoding='utf-8'))
        scales, offered = file['scales'], [table['name'] for table in file['tables']]
        scale = next(iter(scales)) if scale is None else scale
        check_choice('scale', [scale], list(scales))
        settings = dict(scales[scale])
        of_scale = settings.pop('datasets')
        check_choice('datasets', datasets or (), of_scale)
        check_choice('tables', tables or (), offered)
        size = settings.pop('batch_size', 128)
        wanted = tables or offered
        chosen = tuple(
            read_table(table, tuple(datasets or of_scale), size)
            for table in file['tables']
            if table['name'] in wanted
        )
        all_tables = set(wanted) == set(offered)
        plan = Plan(
            name=f'{path.stem}-{scale}',
            part='' if all_tables else ''.join(f'-{name}' for name in wanted),
            scale=settings,
            tables=tuple(table for table in chosen if table.datasets),
            seeds=tuple(file['seeds'] if seeds is None else dict.fromkeys(seeds)),
            metrics=tuple(file['metrics']),
            paired=tuple(file.get('paired', ())),
        )
    except (LookupError, TypeError, ValueError, StopIteration) as error:
        raise UserError(f'{path} is no plan ({error}): choose another') from error
    if not plan.tables:
        raise UserError(
            f'--tables {" ".join(wanted)} has nothing of --datasets '
            f'{" ".join(datasets or of_scale)}: ask for more of either'
        )
    return plan


def check_choice(flag: str, chosen: Sequence[str], offered: Sequence[str]) -> None:
    """Refuses a choice that the plan does not offer."""
    for name in chosen:
        if name not in offered:
            raise UserError(f'--{flag} {name}: the plan has {", ".join(offered)}')


def read_table(table: dict[str, Any], datasets: tuple[str, ...], size: int) -> Table:
    """A table of the file, for those of `datasets` that it is for."""
    rows = tuple(
        Row(row.pop('label'), published=row.pop('published', {}), settings=row)
        for row in map(dict, table.pop('rows'))
    )
    meant = table.pop('datasets', datasets)
    return Table(
        rows=rows,
        batch_sizes=tuple(table.pop('batch_sizes', [size])),
        datasets=tuple(name for name in datasets if name in meant),
        **table,
    )
