"""Regret with the schedule of diffGrad's Theorem 1, its bound, and counterexamples.

python -m experiments.regret.run

Plays every optimizer on every online problem, in float64, and writes the record
(regret.json), the tables (regret.md) and the pictures (regret.png, regret-points.png).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.lab import cli
from experiments.lab.cli import option
from experiments.lab.environment import facts
from experiments.lab.output_files import check_replaceable, write_atomically
from experiments.regret.game import OPTIMIZERS, play
from experiments.regret.hindsight import best_points
from experiments.regret.picture import draw_points, draw_regret
from experiments.regret.problems import PROBLEMS, linear
from experiments.regret.report import tables
from experiments.regret.theorem import Terms, printed_bound, telescope


@dataclass(frozen=True)
class Settings:
    """Everything that the comparison is told."""

    rounds: int = option(30_000, 'T, at least 30; rounded down to a multiple of 3')
    problems: tuple[str, ...] = option(tuple(PROBLEMS), 'which to play', PROBLEMS)
    out_dir: Path = option(Path('runs/regret'), 'where the results are written')


def checkpoints(rounds: int) -> np.ndarray:
    """Where regret is taken: evenly in the logarithm, after whole periods of three."""
    return 3 * np.unique(np.rint(np.geomspace(1, rounds // 3, 25)).astype(int))


def measure(title: str, rounds: int) -> dict[str, Any]:
    """Regret of every optimizer on a problem, and the bounds, at the checkpoints."""
    problem, at = PROBLEMS[title](rounds), checkpoints(rounds)
    best = best_points(problem, at)
    record: dict[str, Any] = {
        'constants': problem.constants._asdict(),
        'gradient_bound': problem.gradient_bound,
        'size': problem.rows.shape[1],
        'checkpoints': at.tolist(),
        'best': shortened([of.value for of in best]),
        'gap': shortened([of.gap for of in best]),
        'optimizers': {},
    }
    for name in OPTIMIZERS:
        game = play(problem, name)
        regret = np.cumsum(game.losses)[at - 1] - [of.value for of in best]
        of: dict[str, Any] = {'regret': shortened(regret)}
        record['optimizers'][name] = of
        if problem.constants.beta1 == 0:
            sums = telescope(game)
            of['holding_bound'] = shortened(sums.bound[at - 1])
            of['excess'] = shortened(sums.excess[at - 1])
        if problem.loss is linear:
            of['points'] = [shortened(x) for x in game.points[at - 1]]
        if name == 'diffgrad':
            bounds = [printed_bound(problem, game.gradients[:T]) for T in at]
            record['theorem'] = {
                term: shortened(values)
                for term, values in zip(
                    Terms._fields, zip(*bounds, strict=True), strict=True
                )
            }
    return record


def shortened(values: Any) -> list[float]:
    """With eight digits, which is more than is read anywhere."""
    return [float(f'{value:.8g}') for value in values]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, rounds=30)
    out = settings.out_dir
    out.mkdir(parents=True, exist_ok=True)
    told = {
        'rounds': settings.rounds,
        'problems': list(dict.fromkeys(settings.problems)),
    }
    check_replaceable(
        out / 'regret.json',
        lambda record: record['settings'],
        told,
        *('regret.md', 'regret.png', 'regret-points.png'),
    )
    problems = {}
    for title in dict.fromkeys(settings.problems):
        problems[title] = measure(title, settings.rounds)
        regret = problems[title]['optimizers']['diffgrad']['regret'][-1]
        print(f'{title:18s} R(T) of diffgrad {regret:.4g}', flush=True)
    record = {
        'settings': told,
        **facts(jax.make_mesh((1,), ('data',))),
        'problems': problems,
    }
    write_atomically(out / 'regret.json', json.dumps(record) + '\n')
    write_atomically(out / 'regret.md', tables(record) + '\n')
    draw_regret(out / 'regret.png', problems)
    if pointed := {
        title: problem
        for title, problem in problems.items()
        if 'points' in problem['optimizers']['adam']
    }:
        draw_points(out / 'regret-points.png', pointed)
    print(f'\n{tables(record)}\n\neverything is in {out}')


if __name__ == '__main__':
    cli.run(main)
