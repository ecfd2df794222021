"""The tables in Markdown, from the record."""

import math
from typing import Any

Record = dict[str, Any]


def tables(record: Record) -> str:
    """Everything that the page shows in numbers."""
    problems = record['problems']
    parts = regret_table(problems), theorem_table(problems), telescope_table(problems)
    return '\n\n'.join('\n'.join(lines) for lines in parts if lines)


def regret_table(problems: Record) -> list[str]:
    names = next(iter(problems.values()))['optimizers']
    lines = head('R(T)/T; p', *names)
    for title, problem in problems.items():
        checkpoints = problem['checkpoints']
        cells = [
            f'{of["regret"][-1] / checkpoints[-1]:#.2g}; '
            f'{growth(of["regret"], checkpoints):.2f}'
            for of in problem['optimizers'].values()
        ]
        lines.append(row(title, *cells))
    return lines


def growth(regret: list[float], checkpoints: list[int]) -> float:
    """The exponent p of R(T) ~ T^p over the last tenfold of rounds; NaN if R < 0."""
    last = checkpoints[-1]
    early = min(range(len(checkpoints)), key=lambda k: abs(checkpoints[k] - last / 10))
    if min(regret[early], regret[-1]) <= 0:
        return math.nan
    ratio = math.log(regret[-1] / regret[early])
    return ratio / math.log(last / checkpoints[early])


def theorem_table(problems: Record) -> list[str]:
    lines = head(
        'diffgrad', 'R(T)', 'first', 'second', 'third', 'R(T)/bound', 'highest', 'holds'
    )
    for title, problem in problems.items():
        regret = problem['optimizers']['diffgrad']['regret']
        terms = list(problem['theorem'].values())
        ratios = [of / sum(bound) for of, *bound in zip(regret, *terms, strict=True)]
        cells = [f'{values[-1]:.3g}' for values in (regret, *terms)]
        ends = [f'{ratios[-1]:.2g}', f'{max(ratios):.2g}']
        holds = 'yes' if max(ratios) <= 1 else '**no**'
        lines.append(row(title, *cells, *ends, holds))
    return lines


def telescope_table(problems: Record) -> list[str]:
    """Of the problems without momentum; no lines if there are none."""
    excess = {
        title: {name: of['excess'][-1] for name, of in problem['optimizers'].items()}
        for title, problem in problems.items()
        if problem['constants']['beta1'] == 0
    }
    if not excess:
        return []
    return [
        *head('rises/highest', *next(iter(excess.values()))),
        *(
            row(title, *(f'{value:.3g}' for value in of.values()))
            for title, of in excess.items()
        ),
    ]


def row(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


def head(*cells: str) -> list[str]:
    return [row(*cells), '|---|' + '---:|' * (len(cells) - 1)]
