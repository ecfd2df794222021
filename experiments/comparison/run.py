"""Runs what is missing of the comparison, a piece of minutes at a time.

python -m experiments.comparison.run                      # what needs no files
python -m experiments.comparison.run --data-dir FOLDER    # all

A piece is all runs of an optimizer that its plan asks for next. When a piece is done a
line for each run joins docs/results/comparison/WORKLOAD.jsonl; a piece that is
interrupted is computed again. `render` makes the page.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.comparison import data, plan, records
from experiments.comparison.design import OPTIMIZERS, WORKLOADS, Workload
from experiments.comparison.engine import Program, train
from experiments.comparison.plan import Run
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.environment import commit
from experiments.lab.lock import held


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags."""

    workloads: tuple[str, ...] = option((), 'workloads to run; all by default')
    data_dir: Path | None = option(None, 'folder with kjv/ and cifar-10-batches-bin/')
    out_dir: Path = option(records.FOLDER, 'folder of the records')
    minutes: int = option(0, 'begin no piece after this many minutes; 0 is no limit')


def main(argv: Sequence[str] | None = None) -> None:
    settings = cli.parse(Settings, argv, __doc__ or '')
    cli.at_least(settings, minutes=0)
    for name in settings.workloads:
        if name not in WORKLOADS:
            raise UserError(f'--workloads {name} must be of {", ".join(WORKLOADS)}')
    settings.out_dir.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * settings.minutes if settings.minutes else float('inf')
    folders = [settings.data_dir] if settings.data_dir else []
    names = settings.workloads or [
        name for name, workload in WORKLOADS.items() if folders or not workload.files
    ]
    with held(settings.out_dir):
        for name in names:
            for line in run(
                WORKLOADS[name], settings.out_dir / f'{name}.jsonl', folders
            ):
                print(name, line, flush=True)
                if time.monotonic() > end:
                    return


def run(workload: Workload, path: Path, folders: Sequence[Path]) -> Iterator[str]:
    """Runs all that is missing of a workload, and says what after each piece."""
    loaded = workload.task.load(folders)
    key = records.key(workload, data.checksum(loaded))
    while piece := next(
        pieces(workload, records.of_key(records.read(path), key)), None
    ):
        optimizer, runs, final = piece
        begin = time.monotonic()
        program = Program(workload, OPTIMIZERS[optimizer], loaded)
        results = train(program, [(2.0**e, seed) for e, seed in runs], test=final)
        about = {'optax': optax.__version__, 'jaxlib': jax.__version__}
        records.add(
            path,
            (
                key
                | {'optimizer': optimizer, 'rate': exponent, 'seed': seed}
                | result
                | {'versions': about, 'commit': commit()}
                for (exponent, seed), result in zip(runs, results, strict=True)
            ),
        )
        jax.clear_caches()
        seconds = time.monotonic() - begin
        rates = f'2^{runs[0][0]} to 2^{runs[-1][0]}'
        yield f'{optimizer}: {len(runs)} runs at {rates}, {seconds:.0f} s'


def pieces(
    workload: Workload, done: dict[str, dict[Run, dict[str, Any]]]
) -> Iterator[tuple[str, Sequence[Run], bool]]:
    """What is missing, in order: optimizer, its next runs, whether they are final."""
    for optimizer in workload.optimizers:
        losses = {run: line['valid_loss'] for run, line in done[optimizer].items()}
        runs = plan.missing(workload, optimizer, losses)
        final = bool(runs) and runs[0][1] >= plan.FIRST_SEED
        for begin in range(0, len(runs), workload.at_once):
            yield optimizer, runs[begin : begin + workload.at_once], final


if __name__ == '__main__':
    cli.run(main)
