"""Which optimizers ended lower than AdamW and NAdamW, and how sure that is."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

BASELINES = ('adamw', 'nadamw')
LEVEL = 0.05


class Difference(NamedTuple):
    """Of test losses, paired by seed: an optimizer's minus a baseline's."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    p: float  # of a paired t-test, by Holm's method over all differences
    visible: float  # what a test at 5 % would have found four times out of five


def differences(
    losses: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, Difference]]:
    """Each optimizer's differences from the baselines, other than itself.

    Args:
      losses: of each optimizer, by seed in the same order; infinity if it diverged.
    """
    pairs = [(x, b) for x in losses for b in BASELINES if x != b]
    with np.errstate(invalid='ignore'):  # infinity minus infinity
        values = np.array([np.subtract(losses[x], losses[b]) for x, b in pairs])
        test = stats.ttest_1samp(values, 0.0, axis=1)
        low, high = test.confidence_interval(0.95)
        means, deviations = values.mean(1), values.std(1, ddof=1)
    adjusted = multipletests(np.nan_to_num(test.pvalue, nan=1.0), method='holm')[1]
    visible = _visible_effect(values.shape[1]) * deviations
    columns = zip(means, low, high, adjusted, visible, strict=True)
    found: dict[str, dict[str, Difference]] = {name: {} for name in losses}
    for (name, baseline), numbers in zip(pairs, columns, strict=True):
        found[name][baseline] = Difference(*map(float, numbers))
    return found


def better(of_optimizer: Mapping[str, Difference]) -> bool:
    """Whether the differences from all baselines are below 0 for certain."""
    return all(d.mean < 0 and d.p < LEVEL for d in of_optimizer.values())


@functools.cache
def _visible_effect(count: int) -> float:
    """In standard deviations, what a test of so many pairs finds four times of five."""
    return float(TTestPower().solve_power(nobs=count, alpha=LEVEL, power=0.8))
