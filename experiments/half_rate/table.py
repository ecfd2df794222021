"""The answer in numbers, as tables in Markdown."""

import itertools
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np

from experiments.half_rate.experiment import FACTORS, Network, Run
from experiments.lab.grid import last, over_rates
from experiments.lab.tables import markdown, mean_with_error, of_seeds, summary

Lines = Mapping[Run, Mapping[str, Any]]

# What is subtracted from what, run by run of the same rate and seed.
DIFFERENCES = (
    ('adam-half', 'adam'),
    ('diffgrad', 'adam-half'),
    ('diffgrad', 'diffgrad-frozen'),
    ('relative', 'adam-half'),
    ('relative', 'relative-frozen'),
)

# From 2⁻⁷ on friction lengthens half a step by more than a hundredth.
FELT = 18


def tables(networks: Mapping[str, Network], lines: Mapping[str, Lines]) -> str:
    """All tables, of the runs that there are."""
    parts = []
    compared = {name: n for name, n in networks.items() if len(n.arms) > 1}
    for name, network in compared.items():
        parts += [
            f'{title(name, network)}:',
            rates_table(network, lines[name]),
        ]
    for name, network in compared.items():
        parts += [f'{name}, differences between runs of the same rate and seed:']
        parts += [differences(network, lines[name])]
    parts += ['How ξ is distributed, over all elements and steps of an epoch:']
    parts += [frictions(networks, lines)]
    for name, network in compared.items():
        parts += [f'{name}, learning rate {network.close:g}, the loss multiplied:']
        parts += [over_factors(network, lines[name])]
    return '\n\n'.join(parts)


def title(name: str, network: Network) -> str:
    of = 'test accuracy (%)'
    if network.score == 'valid_loss':
        of = 'validation loss (nats per token)'
    return f'{name}, {of}, {of_seeds(len(network.seeds))}'


def scores(network: Network, lines: Iterable[Mapping[str, Any]]) -> list[float]:
    """What a page shows of each run's last epoch, NaN where it diverged."""
    values = last([line['metrics'] for line in lines], network.score)
    return [percent(network) * value for value in values]


def percent(network: Network) -> float:
    return 100.0 if network.score == 'test_accuracy' else 1.0


def digits(network: Network) -> int:
    return 2 if network.score == 'test_accuracy' else 4


def at_rates(
    network: Network, lines: Lines, arm: str
) -> dict[float, list[Mapping[str, Any]]]:
    """The lines of all seeds at each rate."""
    runs = {
        rate: [Run(arm, rate, seed) for seed in network.seeds] for rate in network.rates
    }
    return present(runs, lines)


def at_factors(
    network: Network, lines: Lines, arm: str
) -> dict[float, list[Mapping[str, Any]]]:
    """The lines of all seeds with the loss times each factor."""
    runs = {
        factor: [Run(arm, network.close, seed, factor) for seed in network.seeds]
        for factor in sorted({1.0, *FACTORS})
    }
    return present(runs, lines)


def present(
    runs: Mapping[float, Iterable[Run]], lines: Lines
) -> dict[float, list[Mapping[str, Any]]]:
    found = {
        place: [lines[run] for run in of_place if run in lines]
        for place, of_place in runs.items()
    }
    return {place: of_place for place, of_place in found.items() if of_place}


def rates_table(network: Network, lines: Lines) -> str:
    """Each arm at each rate, and at the one that its training loss chooses."""
    arms = {
        arm: {
            rate: [line['metrics'] for line in there]
            for rate, there in at_rates(network, lines, arm).items()
        }
        for arm in network.arms
    }
    return over_rates(
        arms,
        network.rates,
        seeds=len(network.seeds),
        choose='train_loss',
        show=network.score,
        digits=digits(network),
        factor=percent(network),
    )


def differences(network: Network, lines: Lines) -> str:
    """What one arm has more than another: means and standard errors over pairs.

    With their number where it is not that of all seeds, and of all rates, and how many
    have a run that diverged.
    """
    most = len(network.seeds)
    rows = []
    for arm, other in DIFFERENCES:
        of_rates = [paired(network, lines, arm, other, {r}) for r in network.rates]
        all_pairs = list(itertools.chain.from_iterable(of_rates))
        counts = [most] * len(of_rates) + [most * len(of_rates)]
        cells = [
            summary(pairs, digits(network), count, mean_with_error) or '–'
            for pairs, count in zip([*of_rates, all_pairs], counts, strict=True)
        ]
        rows.append([f'{arm} − {other}', *cells])
    header = [unit(network), *(f'{rate:g}' for rate in network.rates), 'all rates']
    return markdown(header, rows)


def unit(network: Network) -> str:
    return 'points' if network.score == 'test_accuracy' else 'nats'


def paired(
    network: Network, lines: Lines, arm: str, other: str, rates: Container[float]
) -> list[float]:
    """What `arm` has more than `other` at these rates, for each seed that both have."""
    runs = [
        run
        for run in network.runs()
        if run.arm == arm and run.factor == 1.0 and run.rate in rates
        if run in lines and run._replace(arm=other) in lines
    ]
    ours = scores(network, (lines[run] for run in runs))
    theirs = scores(network, (lines[run._replace(arm=other)] for run in runs))
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def frictions(networks: Mapping[str, Network], lines: Mapping[str, Lines]) -> str:
    """ξ by epoch, of the first seed at the rate that is looked at closely."""
    header = ['network', 'friction', 'epoch', 'mean of ξ', 'exactly ½', 'above 0.508']
    rows = []
    for name, network in networks.items():
        for arm in ('diffgrad', 'relative'):
            run = Run(arm, network.close, network.seeds[0])
            for metrics in lines[name].get(run, {'metrics': []})['metrics']:
                friction = metrics['friction']
                bins = all_bins(friction)
                rows.append(
                    [
                        name,
                        'dfc' if arm == 'diffgrad' else 'relative_dfc',
                        str(metrics['epoch']),
                        f'{0.5 + friction["mean"]:.5f}',
                        f'{bins[0]:.2%}',
                        f'{bins[FELT:].sum():.2%}',
                    ]
                )
    return markdown(header, rows, left=2)


def all_bins(friction: Mapping[str, Any]) -> np.ndarray:
    """The part of all elements that is in each bin."""
    layers = friction['layers'].values()
    return np.average(
        [layer['bins'] for layer in layers],
        axis=0,
        weights=[layer['size'] for layer in layers],
    )


def over_factors(network: Network, lines: Lines) -> str:
    """Each arm with the loss multiplied, and the mean of its ξ over the run."""
    factors = sorted({1.0, *FACTORS})
    rows = []
    for arm in network.scaled:
        cells = dict.fromkeys(factors, '–')
        for factor, there in at_factors(network, lines, arm).items():
            values = scores(network, there)
            cells[factor] = summary(values, digits(network), len(network.seeds))
            if means := [0.5 + run_mean(line) for line in there if observes(line)]:
                cells[factor] += f' (ξ {np.mean(means):.4f})'
        rows.append([arm, *cells.values()])
    return markdown(['arm', *(f'loss × {factor:g}' for factor in factors)], rows)


def observes(line: Mapping[str, Any]) -> bool:
    return any('friction' in metrics for metrics in line['metrics'])


def run_mean(line: Mapping[str, Any]) -> float:
    """The mean of ξ − ½ over all elements and steps of a run."""
    return float(np.mean([metrics['friction']['mean'] for metrics in line['metrics']]))
