"""Trains one network with the study's 18 optimizers, their control and a mixture.

python -m experiments.study.run
python -m experiments.study.run --dataset cifar10 --data-dir DATA

Every run adds a line to the file of results as it ends; the same command goes on where
it was stopped, and draws what there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.cifar.train import data_checksum, train
from experiments.lab import cli
from experiments.lab.cli import option
from experiments.lab.files import check_drawn, check_made, write_atomically
from experiments.lab.record import Record, run_missing
from experiments.lab.tables import of_seeds
from experiments.study.experiments import EXPERIMENTS, GROUPS, Experiment, plan
from experiments.study.report import by_arm, draw_group, table


@dataclass(frozen=True)
class Settings:
    """Everything that the study is told."""

    dataset: Literal[*EXPERIMENTS] = option(
        'digits',
        'digits and mnist have the MLP, cifar10 the CNN, cifar10-small a narrow one on '
        'the first 2,000 images',
    )
    data_dir: Path | None = option(
        None,
        "where CIFAR's folder or archive is, or MNIST's four files; left out, they are "
        'fetched and cached',
    )
    seeds: tuple[int, ...] = option((0, 1, 2), 'each optimizer is trained with each')
    minutes: float | None = option(None, 'after which no run is begun')
    results: Path | None = option(
        None, 'the file of results; left out, study-DATASET.jsonl in docs/results'
    )
    runs_dir: Path | None = option(
        None, 'where runs under way are; left out, runs/study-DATASET'
    )
    images_dir: Path | None = option(
        None, 'where the pictures are drawn; left out, docs/images or beside --results'
    )


def describe(experiment: Experiment, seeds: int) -> str:
    """What was trained, in a line."""
    size = 'all' if (limit := experiment.limit_train) is None else f'{limit:,}'
    return (
        f'{experiment.model} of width {experiment.width} on {experiment.dataset} '
        f'({size} training images), batch {experiment.batch_size}, '
        f'{experiment.epochs} epochs, {of_seeds(seeds)}'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, minutes=0)
    experiment = EXPERIMENTS[settings.dataset]
    name = f'study-{settings.dataset}'
    results = settings.results or Path(f'docs/results/{name}.jsonl')
    there = by_arm(Record(results), experiment)
    page = results.with_suffix('.md')
    images_dir = settings.images_dir or (
        settings.results.parent if settings.results else Path('docs/images')
    )
    pictures = {group: images_dir / f'{results.stem}-{group}.png' for group in GROUPS}
    check_drawn(results, page)
    check_made(any(there.values()), page, *pictures.values())
    record = run_missing(
        results,
        plan(experiment, settings.seeds, settings.data_dir),
        lambda config: train(config, say=lambda line: None),
        checksum=data_checksum,
        runs_dir=settings.runs_dir or Path('runs') / name,
        minutes=settings.minutes,
        say=lambda line: print(line, flush=True),
    )
    runs = by_arm(record, experiment)
    if not any(runs.values()):
        print(f'nothing to draw: {results} has no such runs')
        return
    title = describe(experiment, max(map(len, runs.values())))
    images_dir.mkdir(parents=True, exist_ok=True)
    for group, picture in pictures.items():
        draw_group(picture, runs, group, title)
    text = table(runs) + '\n'
    write_atomically(page, text)
    print(f'\n{text}\n{len(record.runs)} runs are in {results}')


if __name__ == '__main__':
    cli.run(main)
