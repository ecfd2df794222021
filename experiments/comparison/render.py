"""Makes the page's tables and pictures of the records.

python -m experiments.comparison.render

writes docs/results/comparison.md and docs/images/comparison-*.png. A workload is there
when all its optimizers are done.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.comparison import plan, records, statistics
from experiments.comparison.design import OPTIMIZERS, WORKLOADS, Workload
from experiments.comparison.plan import FIRST_SEED, Run
from experiments.lab import cli
from experiments.lab.cli import UserError, option

Lines = dict[Run, dict[str, Any]]
STYLE = Path('docs/pictures/style.mplstyle')
# Baselines are grey and black.
COLORS = {
    'adamw': 'black',
    'nadamw': '0.55',
    'diffgrad': 'tab:orange',
    'relative': 'tab:red',
    'mars': 'tab:purple',
    'adadiff': 'tab:brown',
    'diffrgrad': 'tab:cyan',
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags."""

    records: Path = option(records.FOLDER, 'folder of the records')
    out_dir: Path = option(Path('docs'), 'folder with results/ and images/')


@dataclasses.dataclass(frozen=True)
class Scored:
    """The runs of one optimizer on one workload, once it is done."""

    lines: Lines
    exponent: int

    @property
    def final(self) -> list[dict[str, Any]]:
        """The runs at the chosen rate that were tested, by seed."""
        seeds = sorted(seed for _, seed in self.lines if seed >= FIRST_SEED)
        return [self.lines[self.exponent, seed] for seed in seeds]

    def losses(self, name: str = 'test_loss') -> list[float]:
        return [loss_of(line, name) for line in self.final]

    def mean(self, name: str) -> float:
        return float(np.mean([x[name] for x in self.final]))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and the mean validation loss at each."""
        curves = np.array([x['curve'] for x in self.final], dtype=float)
        return curves[0, :, 0], curves[:, :, 2].mean(0)

    def by_rate(self) -> tuple[list[float], list[float]]:
        """Learning rates, and the mean validation loss of the tuning seeds at each."""
        found: dict[int, list[float]] = {}
        for (exponent, seed), line in sorted(self.lines.items()):
            if seed < FIRST_SEED:
                found.setdefault(exponent, []).append(loss_of(line, 'valid_loss'))
        return [2.0**e for e in found], [float(np.mean(x)) for x in found.values()]


def loss_of(line: Mapping[str, Any], name: str) -> float:
    """Infinity where the run diverged."""
    return math.inf if line[name] is None else float(line[name])


def main(argv: Sequence[str] | None = None) -> None:
    settings = cli.parse(Settings, argv, __doc__ or '')
    results = {
        name: scored
        for name, workload in WORKLOADS.items()
        if (scored := complete(workload, settings.records / f'{name}.jsonl'))
    }
    if not results:
        raise UserError(f'{settings.records} has no complete workload: run the runner')
    page = settings.out_dir / 'results' / 'comparison.md'
    page.write_text('\n'.join(page_lines(results)), encoding='utf-8')
    if STYLE.exists():
        plt.style.use(STYLE)
    images = settings.out_dir / 'images'
    draw(images / 'comparison-rates.png', results, draw_rates)
    draw(images / 'comparison-curves.png', results, draw_curves)


def complete(workload: Workload, path: Path) -> dict[str, Scored] | None:
    """The optimizers of a workload that have been scored, if none is missing.

    Of several keys the newest counts, which is that of the last line.
    """
    lines = records.read(path)
    wanted = records.settings(workload)
    lines = [line for line in lines if line['settings'] == wanted]
    if not lines:
        return None
    key = {name: lines[-1][name] for name in ('settings', 'data', 'jax')}
    done = records.of_key(lines, key)
    scored = {}
    for optimizer in workload.optimizers:
        losses = {run: line['valid_loss'] for run, line in done[optimizer].items()}
        if plan.missing(workload, optimizer, losses):
            return None
        if any(seed >= FIRST_SEED for _, seed in losses):
            scored[optimizer] = Scored(done[optimizer], plan.chosen(losses))
    return scored


def page_lines(results: Mapping[str, Mapping[str, Scored]]) -> list[str]:
    """The differences from AdamW, and a table for each workload."""
    found = {
        name: statistics.differences({x: s.losses() for x, s in scored.items()})
        for name, scored in results.items()
    }
    names = [x for x in OPTIMIZERS if any(x in scored for scored in results.values())]
    rows = []
    for optimizer in names:
        cells = [
            difference_cell(found[name].get(optimizer), optimizer) for name in results
        ]
        rows.append(f'| {optimizer} | {" | ".join(cells)} |')
    adamw = [scored['adamw'].mean('test_loss') for scored in results.values()]
    lines = [
        'Test loss minus that of AdamW, with its 95 % interval ↓. Bold: lower than',
        "AdamW's and NAdamW's, with Holm's adjusted p < 0.05. AdamW's row is its loss.",
        '',
        f'| optimizer | {" | ".join(results)} |',
        f'|---|{"---:|" * len(results)}',
        f'| adamw | {" | ".join(f"{loss:.4g}" for loss in adamw)} |',
        *(row for row in rows if not row.startswith('| adamw |')),
        '',
    ]
    for name, scored in results.items():
        lines += [f'### {name}', '', *workload_table(scored, found[name]), '']
    return lines


def difference_cell(
    of_optimizer: Mapping[str, statistics.Difference] | None, optimizer: str
) -> str:
    if not of_optimizer or 'adamw' not in of_optimizer:
        return ''
    d = of_optimizer['adamw']
    if not math.isfinite(d.mean):
        return 'diverged'
    text = f'{d.mean:+.3g}'.replace('-', '−')
    is_better = statistics.better(of_optimizer)
    bold = '**' if is_better and optimizer not in statistics.BASELINES else ''
    interval = f'{d.low:+.2g} to {d.high:+.2g}'.replace('-', '−')
    return f'{bold}{text}{bold} ({interval})'


def workload_table(
    scored: Mapping[str, Scored],
    found: Mapping[str, Mapping[str, statistics.Difference]],
) -> list[str]:
    """Rate, losses, accuracy, steps and time of each optimizer, the best first."""
    _, adamw = scored['adamw'].curve()
    rows = []
    for name in sorted(scored, key=lambda x: float(np.mean(scored[x].losses()))):
        runs = scored[name]
        steps, curve = runs.curve()
        reached = steps[curve <= adamw[-1]]
        first = runs.final[0]
        accuracy = ''
        if first['test_accuracy'] is not None:
            accuracy = f' ({100 * runs.mean("test_accuracy"):.1f} %)'
        friction = first.get('mean_friction') and f'{runs.mean("mean_friction"):.3f}'
        losses = runs.losses()
        d = found[name].get('adamw')
        rows.append(
            (
                name,
                f'2^{runs.exponent}' if OPTIMIZERS[name].tuned else '',
                f'{np.mean(losses):.4g} ± {np.std(losses, ddof=1):.2g}{accuracy}',
                f'{d.visible:.2g}' if d else '',
                f'{reached[0]:.0f}' if len(reached) else '',
                f'{1e3 * runs.mean("seconds_per_step"):.2g}',
                friction or '',
            )
        )
    head = (
        'optimizer',
        'learning rate',
        'test loss ↓ (accuracy)',
        'visible difference',
        "steps to AdamW's loss ↓",
        'ms/step ↓',
        'mean ξ',
    )
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [
        f'| {" | ".join(head[i] for i in kept)} |',
        f'|---|{"---:|" * (len(kept) - 1)}',
        *(f'| {" | ".join(row[i] for i in kept)} |' for row in rows),
    ]


def draw(path: Path, results: Mapping[str, Mapping[str, Scored]], one: Any) -> None:
    """A panel for each workload, two in a row."""
    rows = -(-len(results) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3.4 * rows), squeeze=False)
    for panel in axes.flat[len(results) :]:
        panel.set_visible(False)
    for panel, (name, scored) in zip(axes.flat, results.items(), strict=False):
        panel.set_title(name)
        one(panel, scored)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def draw_rates(panel: Any, scored: Mapping[str, Scored]) -> None:
    for name, color in COLORS.items():
        if name in scored:
            panel.plot(*scored[name].by_rate(), marker='.', color=color, label=name)
    shown = [scored[name].by_rate()[1] for name in COLORS if name in scored]
    finite = sorted(loss for losses in shown for loss in losses if math.isfinite(loss))
    panel.set(xscale='log', xlabel='learning rate', ylabel='validation loss')
    panel.set_ylim(finite[0] - 0.05 * abs(finite[0]), finite[int(0.8 * len(finite))])


def draw_curves(panel: Any, scored: Mapping[str, Scored]) -> None:
    for name, color in COLORS.items():
        if name in scored:
            panel.plot(*scored[name].curve(), color=color, label=name)
    panel.set(xlabel='step', ylabel='validation loss')
    if scored['adamw'].curve()[1].min() > 0:
        panel.set_yscale('log')


if __name__ == '__main__':
    cli.run(main)
