"""The tables of a search, from its record alone."""

from typing import Any

import numpy as np

from experiments.lab.tables import markdown
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import CONTROLS, PAIRS
from experiments.landscapes.search import SOLVED

REACHED = 1e-3  # a loss below this is at a global minimum


def tables(record: dict[str, Any]) -> str:
    """Losses, how many starts reach a minimum, and pairs, in Markdown."""
    functions = record['functions']
    titles = [FUNCTIONS[name].title for name in functions]
    optimizers = list(next(iter(functions.values())))
    pairs = [pair for pair in PAIRS if set(pair) <= set(optimizers)]
    count = record['starts']
    parts = [
        f'Median loss over {count} held-out starts after {record["steps"]} steps, and '
        'the learning rate that the search chose; “n ∞” are starts of which a run left '
        'the finite numbers.',
        markdown(
            ['optimizer', *titles],
            [
                [name, *(loss_cell(name, of[name]) for of in functions.values())]
                for name in optimizers
            ],
        ),
        f'Held-out starts, of {count}, whose run ended at a loss below {REACHED:g}.',
        markdown(
            ['optimizer', *titles],
            [
                [
                    name,
                    *(
                        str((losses(of[name]) < REACHED).sum())
                        for of in functions.values()
                    ),
                ]
                for name in optimizers
            ],
        ),
    ]
    if pairs:
        parts += [
            f'Held-out starts, of {count}, on which the first ended lower, as low, and '
            f'higher; losses below {SOLVED:g} count as equal.',
            markdown(
                ['pair', *titles],
                [
                    [
                        f'{a} : {b}',
                        *(pair_cell(of[a], of[b]) for of in functions.values()),
                    ]
                    for a, b in pairs
                ],
            ),
        ]
    return '\n\n'.join(parts) + '\n'


def losses(outcome: dict[str, Any]) -> np.ndarray:
    """Of the held-out starts; infinite where a run diverged."""
    return np.array([np.inf if x is None else x for x in outcome['held_out']])


def loss_cell(name: str, outcome: dict[str, Any]) -> str:
    final = losses(outcome)
    median = np.median(final)
    shown = f'< {SOLVED:.0e}' if median < SOLVED else f'{median:.1e}'
    shown = '∞' if np.isinf(median) else shown
    halved = '/2' if name in CONTROLS else ''
    diverged = np.isinf(final).sum()
    return f'{shown} at {outcome["rate"]:g}{halved}' + (
        f', {diverged} ∞' if diverged else ''
    )


def pair_cell(first: dict[str, Any], second: dict[str, Any]) -> str:
    a, b = (np.maximum(losses(outcome), SOLVED) for outcome in (first, second))
    return f'{(a < b).sum()} : {(a == b).sum()} : {(a > b).sum()}'
