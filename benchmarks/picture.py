"""Bars of what each optimizer costs: bytes of state, and the time of an update.

python -m benchmarks.picture
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import cli
from benchmarks.records import costs_of
from benchmarks.summary import read

PATH = Path(__file__).parents[1] / 'docs/images/costs.png'
RECORD = 'cpu-memory-kept/costs'


def color_of(name: str) -> str:
    """Baselines are grey, diffGrad and its variants orange, the others blue."""
    if name.startswith('optax.') and 'dropout' not in name:
        return '0.6'
    return 'tab:orange' if 'diffgrad' in name else 'tab:blue'


def draw(path: Path, costs: dict[str, tuple[float, float]]) -> None:
    """Draws two panels, the optimizer with the shortest update above.

    Args:
      path: of the PNG file.
      costs: bytes of state for each parameter and seconds of an update.
    """
    names = sorted(costs, key=lambda name: -costs[name][1])
    figure = Figure(figsize=(7, 5.5), layout='constrained')
    state_axes, time_axes = figure.subplots(1, 2, sharey=True)
    for axes, label, values, digits in (
        (state_axes, 'state (bytes per parameter)', [costs[n][0] for n in names], 1),
        (time_axes, 'update (ms)', [1e3 * costs[n][1] for n in names], 0),
    ):
        bars = axes.barh(names, values, color=[color_of(name) for name in names])
        axes.bar_label(bars, fmt=f'%.{digits}f', padding=2, fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.15, y=0.01)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=200)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the record into docs/images."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    draw(PATH, costs_of(read(RECORD)))


if __name__ == '__main__':
    cli.run(main)
