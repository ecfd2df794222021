"""Trains the same network with several optimizers and seeds, side by side.

python -m experiments.cifar.compare --optimizers adam adam-half diffgrad --seeds 0 1 2
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cifar.config import OF_ONE_CALL, Config, Settings, check_numbers
from experiments.cifar.train import Result, prepare, train
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.curves import draw_curves
from experiments.lab.files import check_replaceable, write_atomically
from experiments.lab.finite import DivergedError
from experiments.lab.tables import fewer, of_seeds, summary


@dataclass(frozen=True)
class Comparison(Settings):
    """Everything that a comparison is told."""

    optimizers: tuple[str, ...] = option(
        ('adam', 'adam-half', 'diffgrad'), 'each is trained in the same way'
    )
    seeds: tuple[int, ...] = option((0, 1, 2), 'each optimizer is trained with each')


def compare(comparison: Comparison) -> dict[str, dict[int, Result]]:
    """Trains every optimizer with every seed; what is trained already is not again.

    What diverged is tried again, from its last checkpoint on.

    Prints a line a run and a table, and writes the table, every single result and
    a picture of the curves into the comparison's folder, where another comparison's are
    only replaced if this one has all its runs.

    Returns:
      For each optimizer the results by seed, without the runs that diverged, which the
      table counts and the file names.

    Raises:
      UserError: as `train`.
    """
    comparison = dataclasses.replace(
        comparison,
        optimizers=tuple(dict.fromkeys(comparison.optimizers)),
        seeds=tuple(dict.fromkeys(comparison.seeds)),
    )
    settings = {
        field.name: getattr(comparison, field.name)
        for field in dataclasses.fields(Settings)
    }
    default = Path('runs') / f'compare-{comparison.dataset}-{comparison.model}'
    out_dir = comparison.out_dir or default
    check_replaceable(
        out_dir / 'results.json',
        lambda record: covers(comparison, record['comparison']),
        True,
        *('table.md', 'curves.png'),
        named='these settings, with these --optimizers and --seeds or fewer',
    )
    configs = [
        Config(
            **settings | {'out_dir': out_dir / f'{name}-seed{seed}'},
            optimizer=name,
            seed=seed,
        )
        for name in comparison.optimizers
        for seed in comparison.seeds
    ]
    # One that is refused stops the comparison before the first is trained.
    for config in configs:
        check_numbers(config)
    for config in {config.optimizer: config for config in configs}.values():
        prepare(config)
    results: dict[str, dict[int, Result]] = {n: {} for n in comparison.optimizers}
    diverged = []
    for config in configs:
        name, seed = config.optimizer, config.seed
        try:
            result = train(config, say=lambda line: None)
        except DivergedError as error:
            print(f'{name:10s} seed {seed}  diverged: {error}', flush=True)
            diverged.append({'optimizer': name, 'seed': seed, 'reason': error.reason})
            continue
        results[name][seed] = result
        seconds = sum(line['seconds'] for line in result.metrics)
        print(
            f'{name:10s} seed {seed}  {len(result.metrics)} epochs in '
            f'{seconds:.0f} s{"" if result.trained else " (trained before)"}  '
            f'test accuracy {result.correct / result.count:.2%} '
            f'({result.correct} of {result.count})',
            flush=True,
        )
    if not any(results.values()):
        raise UserError('every run has diverged: try a smaller --learning-rate')
    text = table(results, len(comparison.seeds))
    print(f'\n{text}\n\neverything is in {out_dir}')
    write_atomically(out_dir / 'results.json', as_json(comparison, results, diverged))
    write_atomically(out_dir / 'table.md', text + '\n')
    draw_curves(
        out_dir / 'curves.png',
        {
            name + fewer(of_name, len(comparison.seeds)): [
                result.metrics for result in of_name.values()
            ]
            for name, of_name in results.items()
            if of_name
        },
        f'{comparison.model} (width {comparison.width}) on {comparison.dataset}, '
        f'{of_seeds(len(comparison.seeds))}: mean and standard deviation',
    )
    return results


def covers(comparison: Comparison, before: dict[str, Any]) -> bool:
    """Whether `comparison` has every optimizer and seed of `before`, at its settings.

    Args:
      comparison: the one to come.
      before: what `as_json` wrote of another.
    """
    now = dataclasses.asdict(comparison)
    several = ('optimizers', 'seeds')
    return all(set(before[name]) <= set(now[name]) for name in several) and all(
        before[name] == now[name]
        for name in now
        if name not in (*several, *OF_ONE_CALL)
    )


def table(results: dict[str, dict[int, Result]], seeds: int) -> str:
    """Mean ± standard deviation in Markdown, with their number if below `seeds`.

    The seeds that an optimizer has no result of are those that diverged.
    """
    rows = [
        '| optimizer  | test accuracy (%) | final training loss | images/s |',
        '|------------|------------------:|--------------------:|---------:|',
    ]
    for name, of_name in results.items():
        runs, diverged = of_name.values(), [math.nan] * (seeds - len(of_name))
        accuracies = [100 * run.correct / run.count for run in runs]
        losses = [run.metrics[-1]['train_loss'] for run in runs]
        rates = [line['images_per_second'] for run in runs for line in run.metrics]
        accuracy = summary(accuracies + diverged, 2, seeds)
        loss = summary(losses + diverged, 4, seeds)
        rate = f'{statistics.median(rates):.0f}' if rates else '–'
        rows.append(f'| {name:10s} | {accuracy:>17s} | {loss:>19s} | {rate:>8s} |')
    return '\n'.join(rows)


def as_json(
    comparison: Comparison,
    results: dict[str, dict[int, Result]],
    diverged: list[dict[str, Any]],
) -> str:
    """The configuration, every single result, and what diverged."""
    return json.dumps(
        {
            'comparison': {
                name: value
                for name, value in dataclasses.asdict(comparison).items()
                if name not in ('data_dir', 'out_dir', 'resume')
            },
            'runs': [
                {'optimizer': name, 'seed': seed, 'metrics': result.metrics}
                for name, of_name in results.items()
                for seed, result in of_name.items()
            ],
            'diverged': diverged,
        },
        indent=1,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    compare(cli.parse(Comparison, argv, description=__doc__))


if __name__ == '__main__':
    cli.run(main)
