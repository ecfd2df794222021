"""The tables in Markdown, from the record."""

import math
from typing import Any

from experiments.lab.tables import markdown

Record = dict[str, Any]


def tables(record: Record) -> str:
    """Everything that the page shows in numbers."""
    problems = record['problems']
    parts = regret_table(problems), theorem_table(problems), telescope_table(problems)
    return '\n\n'.join(filter(None, parts))


def regret_table(problems: Record) -> str:
    names = next(iter(problems.values()))['optimizers']
    rows = []
    for title, problem in problems.items():
        checkpoints = problem['checkpoints']
        cells = [
            f'{of["regret"][-1] / checkpoints[-1]:#.2g}; '
            f'{growth(of["regret"], checkpoints):.2f}'
            for of in problem['optimizers'].values()
        ]
        rows.append([title, *cells])
    return markdown(['R(T)/T; p', *names], rows)


def growth(regret: list[float], checkpoints: list[int]) -> float:
    """The exponent p of R(T) ~ T^p over the last tenfold of rounds; NaN if R < 0."""
    last = checkpoints[-1]
    early = min(range(len(checkpoints)), key=lambda k: abs(checkpoints[k] - last / 10))
    if min(regret[early], regret[-1]) <= 0:
        return math.nan
    ratio = math.log(regret[-1] / regret[early])
    return ratio / math.log(last / checkpoints[early])


def theorem_table(problems: Record) -> str:
    header = [
        'diffgrad',
        'R(T)',
        'first',
        'second',
        'third',
        'R(T)/bound',
        'highest',
        'holds',
    ]
    rows = []
    for title, problem in problems.items():
        regret = problem['optimizers']['diffgrad']['regret']
        terms = list(problem['theorem'].values())
        ratios = [of / sum(bound) for of, *bound in zip(regret, *terms, strict=True)]
        cells = [f'{values[-1]:.3g}' for values in (regret, *terms)]
        ends = [f'{ratios[-1]:.2g}', f'{max(ratios):.2g}']
        holds = 'yes' if max(ratios) <= 1 else '**no**'
        rows.append([title, *cells, *ends, holds])
    return markdown(header, rows)


def telescope_table(problems: Record) -> str:
    """Of the problems without momentum; empty if there are none."""
    excess = {
        title: {name: of['excess'][-1] for name, of in problem['optimizers'].items()}
        for title, problem in problems.items()
        if problem['constants']['beta1'] == 0
    }
    if not excess:
        return ''
    rows = [
        [title, *(f'{value:.3g}' for value in of.values())]
        for title, of in excess.items()
    ]
    return markdown(['rises/highest', *next(iter(excess.values()))], rows)
