"""The rule by which every optimizer's learning rate is tuned, chosen and scored."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.comparison.design import OPTIMIZERS, Plan, Workload

Run = tuple[int, int]  # the learning rate's exponent of two, and the seed
# Seeds that score a chosen rate; those that tune are below.
FIRST_SEED = 100


def missing(
    workload: Workload, optimizer: str, losses: Mapping[Run, float | None]
) -> list[Run]:
    """The next runs of an optimizer, all of one stage; none if it is done.

    Args:
      losses: validation losses at the end of the runs so far; None if it diverged.
    """
    plan = workload.plan
    tuning_runs = grid(workload, optimizer, losses)
    if waiting := [run for run in tuning_runs if run not in losses]:
        return waiting
    if plan.finalists is not None and optimizer not in plan.finalists:
        return []
    best = chosen(losses)
    tuning = range(plan.tuning_seeds + plan.more_seeds)
    near = [(e, seed) for e in (best - 1, best, best + 1) for seed in tuning]
    if plan.more_seeds and (waiting := [run for run in near if run not in losses]):
        return waiting
    return [run for run in final_runs(plan, best) if run not in losses]


def grid(
    workload: Workload, optimizer: str, losses: Mapping[Run, float | None]
) -> list[Run]:
    """All runs that tune a rate, as far as the losses so far extend the grid."""
    plan = workload.plan
    if not OPTIMIZERS[optimizer].tuned:
        return [(0, seed) for seed in range(plan.tuning_seeds)]
    first = workload.rate + OPTIMIZERS[optimizer].relative - plan.rates // 2
    low, high = first, first + plan.rates
    for _ in range(plan.extensions):
        runs = [(e, s) for e in range(low, high) for s in range(plan.tuning_seeds)]
        if any(run not in losses for run in runs):
            return runs
        best = chosen({run: losses[run] for run in runs})
        if low < best < high - 1:
            return runs
        low, high = (low - 2, high) if best == low else (low, high + 2)
    return [(e, s) for e in range(low, high) for s in range(plan.tuning_seeds)]


def chosen(losses: Mapping[Run, float | None]) -> int:
    """The rate with the lowest mean loss over its tuning seeds.

    A run that diverged is worse than any other. Of rates with as many seeds only: those
    with most count.
    """
    by_rate: dict[int, list[float]] = {}
    for (exponent, seed), loss in losses.items():
        if seed < FIRST_SEED:
            by_rate.setdefault(exponent, []).append(math.inf if loss is None else loss)
    most = max(map(len, by_rate.values()))
    means = {
        e: float(np.mean(found)) for e, found in by_rate.items() if len(found) == most
    }
    return min(sorted(means), key=means.__getitem__)


def final_runs(plan: Plan, exponent: int) -> Sequence[Run]:
    """The runs that score a chosen rate on test data."""
    return [(exponent, FIRST_SEED + i) for i in range(plan.seeds)]
