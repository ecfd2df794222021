"""Every optimizer of the package on five functions, with rates from one search.

python -m experiments.landscapes.run

Each is run from 128 starts at 19 learning rates, 300 steps each. Half of the starts
choose the rate, and the others are reported. Writes the numbers (landscapes.json),
tables (landscapes.md), two pictures, and a page to play with (landscapes.html). The
same command goes on where it was stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.environment import facts
from experiments.lab.lock import held
from experiments.lab.output_files import check_replaceable, write_atomically
from experiments.lab.partial_results import PartialResults
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import CONTROLS, OPTIMIZERS
from experiments.landscapes.page import describe, render
from experiments.landscapes.picture import draw_paths, draw_rates
from experiments.landscapes.report import tables
from experiments.landscapes.search import RATES, Runs, choose_rate, run


@dataclass(frozen=True)
class Settings:
    """Everything that the comparison is told."""

    functions: tuple[str, ...] = option(tuple(FUNCTIONS), 'where', FUNCTIONS)
    optimizers: tuple[str, ...] = option(
        tuple(OPTIMIZERS), 'which to compare', OPTIMIZERS
    )
    steps: int = option(300, 'of each run')
    starts: int = option(64, 'that the rate is chosen on, and as many held out')
    shown: int = option(12, 'of the held-out starts that the page has the paths of')
    out_dir: Path = option(Path('runs/landscapes'), 'where the results are written')


def check(settings: Settings) -> None:
    cli.at_least(settings, steps=1, starts=1, shown=1)
    if settings.shown > settings.starts:
        raise UserError(
            f'--shown {settings.shown} must be at most --starts {settings.starts}'
        )
    for name, source in CONTROLS.items():
        if name in settings.optimizers and source not in settings.optimizers:
            raise UserError(
                f'--optimizers {name} takes the rate of {source}: add {source} too'
            )


def search(settings: Settings, title: str, name: str, kept: PartialResults) -> Runs:
    """The runs of one optimizer on one function, made now or by an interrupted call."""

    def make() -> dict[str, np.ndarray]:
        return run(
            FUNCTIONS[title],
            OPTIMIZERS[name],
            settings.starts,
            settings.shown,
            settings.steps,
        )._asdict()

    return Runs(**kept.get(f'{title}-{name}', make))


def run_all(settings: Settings, kept: PartialResults) -> dict[str, dict[str, Runs]]:
    """Runs every optimizer on every function."""
    runs: dict[str, dict[str, Runs]] = {name: {} for name in settings.functions}
    pairs = [(f, o) for f in runs for o in dict.fromkeys(settings.optimizers)]
    with tqdm(pairs, unit=' searches', leave=False, disable=None) as bar:
        for title, name in bar:
            bar.set_description(f'{name} on {title}')
            runs[title][name] = search(settings, title, name, kept)
    return runs


def make_record(settings: Settings, runs: dict[str, dict[str, Runs]]) -> dict[str, Any]:
    """The search in numbers of JSON, null where a run has diverged."""
    count = settings.starts
    outcomes: dict[str, dict[str, Any]] = {}
    for title, of in runs.items():
        rates = {name: choose_rate(of[name].final[:, :count]) for name in of}
        rates |= {name: rates[CONTROLS[name]] for name in CONTROLS if name in rates}
        outcomes[title] = {
            name: {
                'rate': RATES[rates[name]],
                'search': numbers(np.median(final[:, :count], axis=1)),
                'held_out': numbers(final[rates[name], count:]),
            }
            for name, (final, _, _) in of.items()
        }
    return {
        'steps': settings.steps,
        'starts': count,
        'rates': RATES,
        'functions': outcomes,
        **made_with(),
    }


def made_with() -> dict[str, Any]:
    """Device and versions."""
    return facts(jax.make_mesh((1,), ('run',), devices=jax.devices()[:1]))


def numbers(losses: np.ndarray) -> list[float | None]:
    """Four digits of each."""
    return [float(f'{x:.4g}') if np.isfinite(x) else None for x in losses]


def compare(settings: Settings) -> None:
    """Runs everything and writes it."""
    out, sizes = settings.out_dir, (settings.steps, settings.starts, settings.shown)
    chosen = list(dict.fromkeys(settings.optimizers))
    check_replaceable(
        out / 'landscapes.json',
        lambda record: [
            record['steps'],
            record['starts'],
            {title: list(of) for title, of in record['functions'].items()},
        ],
        [
            settings.steps,
            settings.starts,
            {title: chosen for title in settings.functions},
        ],
        *('landscapes.md', 'landscapes.html'),
        *('landscapes.png', 'landscapes-rates.png'),
    )
    kept = PartialResults(out / 'searches', {'sizes': sizes, **made_with()})
    runs = run_all(settings, kept)
    record = make_record(settings, runs)
    print(tables(record))
    write_atomically(out / 'landscapes.json', json.dumps(record) + '\n')
    write_atomically(out / 'landscapes.md', tables(record))
    write_atomically(out / 'landscapes.html', render(describe(record, runs)))
    draw_paths(out / 'landscapes.png', record, runs)
    draw_rates(out / 'landscapes-rates.png', record)
    kept.clear()
    print(f'everything is in {out}')


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    check(settings)
    settings.out_dir.mkdir(parents=True, exist_ok=True)
    with held(settings.out_dir):
        compare(settings)


if __name__ == '__main__':
    cli.run(main)
