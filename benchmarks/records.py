"""What a result of a benchmark says: medians, quotients, and how a table shows them."""

from collections.abc import Sequence
from operator import truediv
from statistics import median
from typing import Any

from benchmarks.cli import markdown


def updates_of(result: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Seconds of an update for each optimizer and gradient of a result of `compare`."""
    gradient = median(result['gradient_seconds'])
    return {
        (arm['name'], arm['gradient']): median(arm['seconds'])
        # PyTorch's gradients and those that are fused are not timed apart.
        - (gradient if arm['gradient'] == 'materialized' else 0.0)
        for arm in result['arms']
    }


def costs_of(result: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Bytes of state for each parameter and seconds of an update, by optimizer."""
    gradient = median(result['gradient_seconds'])
    return {
        row['name']: (
            row['state_bytes'] / result['parameters'],
            median(row['seconds']) - gradient,
        )
        for row in result['optimizers']
    }


def bandwidths(result: dict[str, Any]) -> dict[str, float]:
    """Bytes that a copy moves in a second, for each framework."""
    return {
        framework: result['copied_bytes'] / median(seconds)
        for framework, seconds in result['copy_seconds'].items()
    }


def by_turns(arm: dict[str, Any], other: dict[str, Any], key: str) -> str:
    """The median quotient of two arms' times in the same turn.

    A process compiles more slowly the more it has compiled.
    """
    return f'{median(map(truediv, arm[key], other[key])):.2f}'


def ratio(a: float, b: float) -> str:
    """A quotient; nothing where noise has left no divisor."""
    return f'{a / b:.2f}' if b > 0 else '–'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the best cells bold where an arrow says what is better."""
    columns = list(zip(*rows, strict=True))
    for index, name in enumerate(header):
        if name.endswith(('↓', '↑')):
            numbers = [number(cell) for cell in columns[index]]
            known = [x for x in numbers if x is not None]
            best = (min if name.endswith('↓') else max)(known, default=None)
            columns[index] = tuple(
                f'**{cell}**' if x is not None and x == best else cell
                for cell, x in zip(columns[index], numbers, strict=True)
            )
    return markdown(header, list(zip(*columns, strict=True)))


def number(cell: str) -> float | None:
    """The number that a cell shows, if it shows one."""
    try:
        return float(cell.replace(',', ''))
    except ValueError:
        return None
