"""What the examples' tables are made of: rows in Markdown, means and their errors."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence, Sized


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


def fewer(values: Sized, most: float) -> str:
    """` (n)`, to follow the mean of n values, where n is below `most`."""
    return f' ({len(values)})' if len(values) < most else ''


def mean_with_error(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error of the mean, the mean alone of a single value."""
    return _plus_minus(values, digits, len(values) ** -0.5)


def ended(values: Iterable[float]) -> list[float]:
    """The values of runs that did not diverge: those that are not NaN."""
    return [value for value in values if not math.isnan(value)]


def summary(
    values: Sequence[float],
    digits: int,
    most: float,
    mean: Callable[[Sequence[float], int], str] = spread,
) -> str:
    """What runs came to: the mean of those that ended, and how many diverged.

    Args:
      values: of the runs, NaN of those that diverged.
      digits: of the mean.
      most: the number of those that ended follows their mean where it is below.
      mean: of what ended, in words.

    Returns:
      `mean (n), m diverged`, or what there is of it; nothing of no values.
    """
    there = ended(values)
    parts = [mean(there, digits) + fewer(there, most)] if there else []
    if diverged := len(values) - len(there):
        parts.append(f'{diverged} diverged')
    return ', '.join(parts)


def _plus_minus(values: Sequence[float], digits: int, factor: float) -> str:
    mean = f'{statistics.mean(values):.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {factor * statistics.stdev(values):.{digits}f}'
