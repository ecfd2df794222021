"""What the examples' tables are made of: rows in Markdown, means and their errors."""

import statistics
from collections.abc import Iterable, Sequence, Sized


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> str:
    """A table whose first columns are flushed left."""
    rule = '|'.join(['---'] * left + ['---:'] * (len(header) - left))
    return '\n'.join([_row(header), f'|{rule}|', *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation, the mean alone of a single value."""
    return _plus_minus(values, digits, 1.0)


def of_seeds(count: int) -> str:
    """`count` of them, in words."""
    return f'{count} {"seed" if count == 1 else "seeds"}'


def fewer(values: Sized, most: int) -> str:
    """` (n)`, to follow the mean of n values, where n is below `most`."""
    return f' ({len(values)})' if len(values) < most else ''


def mean_with_error(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error of the mean, the mean alone of a single value."""
    return _plus_minus(values, digits, len(values) ** -0.5)


def _plus_minus(values: Sequence[float], digits: int, factor: float) -> str:
    mean = f'{statistics.mean(values):.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {factor * statistics.stdev(values):.{digits}f}'
