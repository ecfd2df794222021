"""Language models with six optimizers, at equal budgets of rates, epochs and seeds.

python -m experiments.lm.compare

Every run is a line of a file that only grows; a run that has its line is not repeated.
"""

import functools
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.lab import cli
from experiments.lab.cli import option
from experiments.lab.files import check_made, check_replaceable, write_atomically
from experiments.lab.grid import Metrics, draw_grid, last, over_rates
from experiments.lab.processes import silent
from experiments.lab.record import Record, run_missing
from experiments.lab.tables import of_seeds
from experiments.lm.plans import ARMS, SCALES, Plan
from experiments.lm.train import data_checksum, train

DONE, SHOWN = 'lm.json', ('lm.md', 'lm-rates.png')


@dataclass(frozen=True)
class Settings:
    """Everything that the command is told."""

    scale: Literal['embedded', 'large', 'paper', 'smoke'] = option(
        'embedded',
        'small networks on the bytes of the embedded text; for a GPU large ones on '
        "all of it, or AdaDiff's experiment on the words of --data-dir",
    )
    data_dir: Path | None = option(
        None, 'a folder with train.txt, valid.txt and test.txt, which paper needs'
    )
    out_dir: Path = option(Path('runs/lm-compare'), 'where everything is written')
    minutes: float | None = option(
        None, 'after which no run is begun; the same command goes on'
    )
    smoke: bool = option(False, 'the same as --scale smoke')


Lines = Mapping[tuple[str, float, int], Mapping[str, Any]]


def path_of(out_dir: Path, model: str) -> Path:
    return out_dir / f'lm-{model}.jsonl'


def results(plan: Plan, model: str, record: Record) -> Lines:
    """The lines that there are."""
    lines = {run: record.find(config) for run, config in plan.configs(model).items()}
    return {run: line for run, line in lines.items() if line is not None}


def all_results(plan: Plan, out_dir: Path) -> dict[str, Lines]:
    """The lines that there are of each model."""
    return {
        model: results(plan, model, Record(path_of(out_dir, model)))
        for model in plan.models
    }


def check_out_dir(plan: Plan, out_dir: Path, scale: str) -> None:
    """Refuses a folder in which something else would be written over.

    Raises:
      UserError: naming the file.
    """
    check_replaceable(out_dir / DONE, lambda done: done['scale'], scale)
    lines = all_results(plan, out_dir)
    check_made(any(lines.values()), *(out_dir / name for name in (DONE, *SHOWN)))


def by_arm(plan: Plan, lines: Lines) -> dict[str, dict[float, list[Metrics]]]:
    """The metrics of all seeds that there are, for each arm and rate."""
    arms: dict[str, dict[float, list[Metrics]]] = {}
    for arm in ARMS:
        of_rates = {
            rate: [
                lines[arm, rate, seed]['metrics']
                for seed in plan.seeds
                if (arm, rate, seed) in lines
            ]
            for rate in plan.rates
        }
        arms[arm] = {rate: runs for rate, runs in of_rates.items() if runs}
    return arms


def metric_names(lines: Lines) -> tuple[str, str]:
    """What chooses a rate, and what is shown, which chose nothing."""
    epochs = itertools.chain.from_iterable(line['metrics'] for line in lines.values())
    if any('test_loss' in epoch for epoch in epochs):
        return 'valid_loss', 'test_loss'
    return 'train_loss', 'valid_loss'


def tables(plan: Plan, lines: Mapping[str, Lines]) -> str:
    """A table for each model, of the runs that there are."""
    parts = []
    for model, of_model in lines.items():
        choose, show = metric_names(of_model)
        parts += [
            f'{model}, {words(show)} (nats per token), {of_seeds(len(plan.seeds))}; '
            f'rates are chosen by the {words(choose)}:',
            over_rates(
                by_arm(plan, of_model),
                plan.rates,
                seeds=len(plan.seeds),
                choose=choose,
                show=show,
                digits=4,
            ),
        ]
    return '\n\n'.join(parts)


def words(metric: str) -> str:
    names = {'train': 'training', 'valid': 'validation', 'test': 'test'}
    return f'{names[metric.removesuffix("_loss")]} loss'


def draw(path: Path, plan: Plan, lines: Mapping[str, Lines]) -> None:
    """Losses over the learning rates, a panel for each model."""
    panels = {}
    for model, of_model in lines.items():
        _, show = metric_names(of_model)
        panels[f'{model}, {words(show)} (nats per token)'] = {
            arm: {rate: last(runs, show) for rate, runs in of_rates.items()}
            for arm, of_rates in by_arm(plan, of_model).items()
        }
    styles = {name: arm.style for name, arm in ARMS.items()}
    draw_grid(path, panels, styles, 'learning rate (of sgd a thousandth)')


def show(plan: Plan, out_dir: Path, scale: str) -> None:
    """Tables and a picture of what there is, and `lm.json` if that is all."""
    lines = all_results(plan, out_dir)
    if not any(lines.values()):
        print(f'nothing to show: {out_dir} has no such runs')
        return
    text = tables(plan, lines)
    print(f'\n{text}\n\neverything is in {out_dir}')
    write_atomically(out_dir / 'lm.md', text + '\n')
    draw(out_dir / 'lm-rates.png', plan, lines)
    counts = {model: len(of_model) for model, of_model in lines.items()}
    done_path = out_dir / DONE
    done_path.unlink(missing_ok=True)
    if all(counts[model] == len(plan.configs(model)) for model in counts):
        summary = json.dumps({'scale': scale, 'runs': counts}, indent=1)
        write_atomically(done_path, summary + '\n')


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, minutes=0)
    scale = 'smoke' if settings.smoke else settings.scale
    plan = SCALES[scale](settings.data_dir)
    check_out_dir(plan, settings.out_dir, scale)
    minutes = math.inf if settings.minutes is None else settings.minutes
    deadline = time.monotonic() + 60 * minutes
    for model in plan.models:
        run_missing(
            path_of(settings.out_dir, model),
            {
                f'{arm.split()[0]}-rate{rate:g}-seed{seed}': config
                for (arm, rate, seed), config in plan.configs(model).items()
            },
            functools.partial(train, say=silent),
            checksum=data_checksum,
            runs_dir=settings.out_dir / 'runs' / model,
            minutes=(deadline - time.monotonic()) / 60,
            say=functools.partial(print, flush=True),
        )
    show(plan, settings.out_dir, scale)


if __name__ == '__main__':
    cli.run(main)
