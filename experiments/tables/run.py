"""Runs what is missing of the diffGrad paper's tables, the most valuable first.

python -m experiments.tables.run
python -m experiments.tables.run --scale small --data-dir DATA --minutes 60

Every run adds a line to the file of results as it ends; the same command goes on where
it was stopped, in the middle of a run too.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.cifar.config import Config
from experiments.cifar.train import data_checksum, train
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.files import check_replaceable, write_atomically
from experiments.lab.record import Record, run_missing
from experiments.tables.paper import TABLES, Cell, cells
from experiments.tables.scales import SCALES, Scale, configure, tiny

RESULTS = Path('docs/results')


@dataclass(frozen=True)
class Settings:
    """Everything that the tables are told."""

    scale: Literal[*SCALES] = option(
        'digits',
        "of the runs: the embedded digits; CIFAR's first images, an hour and a half a "
        "seed of CIFAR-10; or the paper's own",
    )
    tables: tuple[Literal[*TABLES], ...] = option(
        tuple(TABLES), 'which to fill; first is five optimizers at batch size 128'
    )
    datasets: tuple[Literal['digits', 'cifar10', 'cifar100'], ...] | None = option(
        None, "which of the scale's to train on; left out, all"
    )
    seeds: tuple[int, ...] = option((0,), 'each cell is run with each')
    minutes: float | None = option(None, 'after which no run is begun')
    data_dir: Path | None = option(
        None,
        "where CIFAR's folders or archives are; left out, they are fetched and cached",
    )
    results: Path | None = option(
        None, 'the file of results; left out, tables-SCALE.jsonl in docs/results'
    )
    runs_dir: Path | None = option(
        None, 'where runs under way are; left out, runs/tables-SCALE'
    )
    out_dir: Path | None = option(
        None,
        'a folder for the file of results in place of docs/results, and for '
        'tables-SCALE.json, which is there when nothing is missing',
    )
    smoke: bool = option(False, 'two tiny runs on digits, to see that everything works')


def chosen_datasets(settings: Settings) -> tuple[str, ...]:
    """Those to train on.

    Raises:
      UserError: if the scale has not all of them, or files are given that none needs.
    """
    offered = SCALES[settings.scale].datasets
    for dataset in settings.datasets or ():
        if dataset not in offered:
            raise UserError(
                f'--datasets {dataset}: --scale {settings.scale} has '
                f'{" and ".join(offered)}'
            )
    if settings.data_dir is not None and offered == ('digits',):
        raise UserError(
            f'--data-dir {settings.data_dir}: the embedded digits need none, CIFAR is '
            'of --scale small and --scale paper'
        )
    return settings.datasets or offered


def in_order(tables: Sequence[str], datasets: Sequence[str]) -> list[list[Cell]]:
    """The cells in stages: of each data set the first question, then the rest.

    A stage is run with every seed before the next one begins; each cell is in one.
    """
    stages: list[list[Cell]] = []
    seen: set[Cell] = set()
    for dataset in datasets:
        first = [name for name in tables if name == 'first']
        rest = [name for name in tables if name != 'first']
        for names in (first, rest):
            wanted = [
                cell
                for name in names
                if dataset in TABLES[name].datasets
                for cell in cells(TABLES[name], dataset)
            ]
            stages.append([c for c in dict.fromkeys(wanted) if c not in seen])
            seen.update(wanted)
    return stages


def plan(
    stages: Sequence[Sequence[Cell]],
    scale: Scale,
    seeds: Sequence[int],
    data_dir: Path | None,
) -> dict[str, Config]:
    """Every run by its name, in order."""
    return {
        '-'.join((*map(str, cell), f'seed{seed}')): configure(
            cell, scale, seed, data_dir
        )
        for stage in stages
        for seed in seeds
        for cell in stage
    }


def available(configs: Iterable[Config]) -> list[str]:
    """The data sets that there are; says why the others are skipped.

    Raises:
      UserError: if there is none.
    """
    one_of_each: dict[str, Config] = {}
    for config in configs:
        one_of_each.setdefault(config.dataset, config)
    there, refusals = [], []
    for dataset, config in one_of_each.items():
        try:
            data_checksum(config)
        except UserError as error:
            refusals.append(error)
            print(f'{dataset} is skipped: {error}', flush=True)
        else:
            there.append(dataset)
    if not there:
        raise refusals[0]
    return there


def missing(configs: dict[str, Config], record: Record) -> list[str]:
    return [name for name, config in configs.items() if record.find(config) is None]


def outlook(configs: dict[str, Config], record: Record) -> str:
    """How much is left, and how long it takes if it is like what there is."""
    if not (left := len(missing(configs, record))):
        return 'nothing is missing'
    runs = filter(None, map(record.find, configs.values()))
    ended = [run['seconds'] for run in runs if run['metrics']]
    if not ended:
        return f'missing: {left}; the first will tell how long they take'
    minutes = left * sum(ended) / len(ended) / 60
    return f'missing: {left}, about {minutes:.0f} min and their compilation'


def done_path(settings: Settings) -> Path:
    """What is there when nothing is missing of the tables that were wanted."""
    part = (
        '' if set(settings.tables) == set(TABLES) else '-' + '-'.join(settings.tables)
    )
    return settings.out_dir / f'tables-{settings.scale}{part}.json'


def fill(settings: Settings) -> None:
    """Runs what is missing, and says what is left.

    Raises:
      UserError: as `train`, or if there is no data set.
    """
    name = f'tables-{settings.scale}'
    if settings.smoke and settings.results is None and settings.out_dir is None:
        raise UserError('--smoke makes no results to keep: name an --out-dir for them')
    results = settings.results or (settings.out_dir or RESULTS) / f'{name}.jsonl'
    runs_dir = settings.runs_dir or Path('runs') / name
    scale = SCALES[settings.scale]
    stages = in_order(settings.tables, chosen_datasets(settings))
    if settings.smoke:
        scale = tiny(scale)
        first = [cell for stage in stages for cell in stage][:2]
        stages = [[cell._replace(dataset='digits') for cell in first]]
    wanted = plan(stages, scale, settings.seeds, settings.data_dir)
    if not wanted:
        raise UserError(
            f'--tables {" ".join(settings.tables)} has nothing of --datasets '
            f'{" ".join(chosen_datasets(settings))}: ask for more of either'
        )
    of_scale = json.loads(json.dumps(dataclasses.asdict(scale)))
    if settings.out_dir is not None:
        check_replaceable(done_path(settings), lambda done: done['scale'], of_scale)
    there = available(wanted.values())
    runnable = {n: c for n, c in wanted.items() if c.dataset in there}
    print(outlook(runnable, Record(results)), flush=True)

    def say(line: str) -> None:
        print(line, outlook(runnable, Record(results)), sep='; ', flush=True)

    record = run_missing(
        results,
        runnable,
        lambda config: train(config, say=lambda line: None),
        checksum=data_checksum,
        runs_dir=runs_dir,
        minutes=settings.minutes,
        say=say,
    )
    left = missing(wanted, record)
    print(f'{len(wanted) - len(left)} of {len(wanted)} runs are in {results}')
    if settings.out_dir is not None:
        settings.out_dir.mkdir(parents=True, exist_ok=True)
        done_path(settings).unlink(missing_ok=True)
        if not left:
            done = {'scale': of_scale, 'runs': list(wanted)}
            write_atomically(done_path(settings), json.dumps(done, indent=1) + '\n')


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, minutes=0)
    fill(settings)


if __name__ == '__main__':
    cli.run(main)
