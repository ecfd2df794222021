"""Draws docs/images/friction.png: what friction is, and where two networks stand.

python docs/pictures/friction.py

Above, ξ = σ(|Δg|) over the histograms of |Δg| that were recorded while a ResNet and a
Transformer trained (docs/results/half_rate-*.jsonl). Below, diffGrad and Adam on the
gradients of one trajectory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from diffgrad_optax import diffgrad, friction

DOCS = Path(__file__).parents[1]
NETWORKS = {
    'ResNet50, width 8, CIFAR-10': ('half_rate-cifar10', 'tab:blue'),
    'Transformer, 2 layers, text': ('half_rate-transformer', 'tab:purple'),
}
STEPS = 80


def main() -> None:
    plt.style.use(Path(__file__).with_name('style.mplstyle'))
    figure, (top, *below) = plt.subplots(
        4, figsize=(7, 7), height_ratios=(3.4, 1, 1, 1.3)
    )
    draw_coefficient(top)
    draw_trajectory(below)
    figure.savefig(DOCS / 'images' / 'friction.png')


def draw_coefficient(axes: Axes) -> None:
    """ξ over |Δg|, and the part of each network's elements in each bin of |Δg|."""
    for name, (record, color) in NETWORKS.items():
        parts = histogram(first_observed(DOCS / 'results' / f'{record}.jsonl'))
        axes.stairs(
            parts, edges(len(parts)), fill=True, color=color, alpha=0.45, label=name
        )
    axes.set(xscale='log', xlim=(1e-6, 30), ylim=(0, 0.5))
    axes.set(xlabel='change of the gradient, $|g_{t-1} - g_t|$')
    axes.set_ylabel('part of all elements')
    axes.grid(visible=False)
    coefficient = axes.twinx()
    change = np.logspace(-6, 1.5, 300)
    ξ = friction.dfc(jnp.asarray(change), jnp.zeros(change.shape))
    coefficient.plot(change, ξ, color='black', label='ξ (right axis)')
    coefficient.set(ylim=(0, 1.02), ylabel='friction coefficient ξ')
    coefficient.spines['right'].set_visible(True)
    coefficient.grid(visible=False)
    handles = [*axes.get_legend_handles_labels()[0], *coefficient.lines]
    axes.legend(handles=handles, loc='upper left')
    axes.set_title('Friction sees changes above 0.1; most gradients change by less')


def draw_trajectory(rows: list[Axes]) -> None:
    """The gradient, ξ and the steps while a parameter falls into a valley."""
    gradient, coefficients, steps = trajectory()
    times = np.arange(1, STEPS + 1)
    for axes, label in zip(rows, ('gradient', 'ξ', 'update'), strict=True):
        axes.set(xlim=(1, STEPS), ylabel=label)
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[0].plot(times, gradient, color='black')
    rows[1].plot(times, coefficients, color='black')
    rows[1].set_ylim(0.45, 1.02)
    rows[2].plot(times, steps['adam'], color='0.6', label='Adam')
    rows[2].plot(times, steps['adam'] / 2, color='0.6', ls=':', label='half of it')
    rows[2].plot(times, steps['diffgrad'], color='tab:orange', label='diffGrad')
    rows[2].legend(loc='lower right', ncols=3)
    rows[2].figure.align_ylabels(rows)
    rows[2].set_xlabel('step t')
    rows[0].set_title('One parameter: where its gradient settles, ξ halves the step')


def trajectory() -> tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]:
    """Gradients that Adam meets on x²·4, and what both optimizers do with them."""
    optimizers = {'adam': optax.adam(0.3), 'diffgrad': diffgrad(0.3)}
    x, previous = jnp.array(4.0), jnp.array(0.0)
    states = {name: optimizer.init(x) for name, optimizer in optimizers.items()}
    rows: list[tuple[float, float]] = []
    steps: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(STEPS):
        gradient = jnp.asarray(8 * x)
        for name, optimizer in optimizers.items():
            update, states[name] = optimizer.update(gradient, states[name], x)
            steps[name].append(float(update))
        rows.append((float(gradient), float(friction.dfc(gradient, previous))))
        x, previous = x + steps['adam'][-1], gradient
    gradients, coefficients = np.array(rows).T
    return gradients, coefficients, {name: np.array(s) for name, s in steps.items()}


def first_observed(record: Path) -> Mapping[str, Any]:
    """The layers of the last epoch of the first run whose friction was recorded."""
    for line in record.read_text('utf-8').splitlines():
        metrics = json.loads(line)['metrics']
        if metrics and 'friction' in metrics[-1]:
            layers: Mapping[str, Any] = metrics[-1]['friction']['layers']
            return layers
    raise ValueError(f'{record} has no run with recorded friction')


def histogram(layers: Mapping[str, Any]) -> np.ndarray:
    """The part of all elements in each bin of ξ - ½."""
    sizes = np.array([layer['size'] for layer in layers.values()])
    bins = np.array([layer['bins'] for layer in layers.values()])
    parts = np.asarray(sizes @ bins / sizes.sum())
    # In float32 ξ is 1 above |Δg| = 17: the last bin continues the one before.
    return np.append(parts[:-2], parts[-2:].sum())


def edges(bins: int) -> np.ndarray:
    """The |Δg| at the edges of the bins, where ξ - ½ is a power of two."""
    excess = 2.0 ** np.arange(-bins - 1, 0)
    return np.asarray(2 * np.arctanh(np.minimum(2 * excess, 1 - 1e-7)))


if __name__ == '__main__':
    main()
