"""The answer in three pictures: friction by layer and epoch, rates, loss scales."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.half_rate.experiment import Network, Run
from experiments.half_rate.table import (
    Lines,
    all_bins,
    at_factors,
    at_rates,
    scores,
    title,
)
from experiments.lab.friction_histogram import BINS
from experiments.lab.grid import draw_grid

# Controls are drawn like what they control, but dashed.
STYLES: dict[str, dict[str, Any]] = {
    'adam': {'color': 'tab:blue', 'linestyle': '-'},
    'adam-half': {'color': 'tab:blue', 'linestyle': '--', 'zorder': 4},
    'diffgrad': {'color': 'tab:orange', 'linestyle': '-'},
    'diffgrad-frozen': {'color': 'tab:orange', 'linestyle': '--', 'zorder': 3},
    'relative': {'color': 'tab:green', 'linestyle': '-'},
    'relative-frozen': {'color': 'tab:green', 'linestyle': '--', 'zorder': 3},
}


def draw(
    out_dir: Path, networks: Mapping[str, Network], lines: Mapping[str, Lines]
) -> None:
    """Draws what there is, a column for each network."""
    compared = {name: n for name, n in networks.items() if len(n.arms) > 1}
    draw_frictions(out_dir / 'half_rate-friction.png', networks, lines)
    draw_grid(
        out_dir / 'half_rate-rates.png',
        {
            title(name, network): {
                arm: {
                    rate: scores(network, there)
                    for rate, there in at_rates(network, lines[name], arm).items()
                }
                for arm in network.arms
            }
            for name, network in compared.items()
        },
        STYLES,
        'learning rate',
    )
    draw_grid(
        out_dir / 'half_rate-loss.png',
        {
            f'{title(name, network)}, rate {network.close:g}': {
                arm: {
                    factor: scores(network, there)
                    for factor, there in at_factors(network, lines[name], arm).items()
                }
                for arm in network.scaled
            }
            for name, network in compared.items()
        },
        STYLES,
        'factor of the loss',
    )


def draw_frictions(
    path: Path, networks: Mapping[str, Network], lines: Mapping[str, Lines]
) -> None:
    """Layers × epochs, coloured by the mean of ξ − ½; below, all elements' ξ − ½."""
    runs = {
        name: lines[name].get(Run('diffgrad', network.close, network.seeds[0]))
        for name, network in networks.items()
    }
    runs = {name: line for name, line in runs.items() if line and line['metrics']}
    if not runs:
        path.unlink(missing_ok=True)
        return
    figure = Figure(figsize=(5 * len(runs), 10), layout='constrained')
    grid = figure.subplots(2, len(runs), squeeze=False, height_ratios=(2, 1))
    for (name, line), maps, curves in zip(runs.items(), *grid, strict=True):
        epochs = [metrics['friction'] for metrics in line['metrics']]
        layers = from_input(epochs[0]['layers'])
        means = [[of_epoch['layers'][x]['mean'] for of_epoch in epochs] for x in layers]
        image = maps.imshow(
            np.maximum(means, 2.0**-24), aspect='auto', norm=LogNorm(1e-6, 0.5)
        )
        maps.set_yticks(
            range(len(layers)), layers, fontsize=6 if len(layers) > 20 else 8
        )
        maps.set_xticks(range(len(epochs)), range(1, len(epochs) + 1))
        maps.set_title(f'{name}: mean of ξ − ½')
        maps.set_xlabel('epoch')
        figure.colorbar(image, ax=maps)
        for number, friction in enumerate(epochs, start=1):
            color = str(0.75 * (1 - number / len(epochs)))
            curves.stairs(all_bins(friction), color=color, label=f'epoch {number}')
        ticks = range(7, BINS, 6)
        labels = (f'2$^{{{tick - BINS}}}$' for tick in ticks)
        curves.set_xticks([0.5, *ticks], ['0', *labels])
        curves.set_xlabel('ξ − ½')
        curves.set_ylabel('part of all elements')
        curves.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def from_input(layers: Iterable[str]) -> list[str]:
    """The layers of a ResNet or a Transformer from the input to the output."""
    layers = list(layers)
    # A ResNet's norm follows its first convolution, a Transformer's its last block.
    resnet = 'conv weights' in layers
    order = ['conv', 'norm'] if resnet else ['embed']
    order += ['blocks'] if resnet else ['blocks', 'norm']
    return sorted(
        layers,
        key=lambda layer: [*order, layer.split()[0]].index(layer.split()[0]),
    )
