"""Times training many runs in one program by `vmap`, compared with one by one.

python -m experiments.comparison.speed
"""

import dataclasses
from statistics import median

from experiments.comparison.design import OPTIMIZERS, WORKLOADS
from experiments.comparison.engine import Program, train
from experiments.lab import cli
from experiments.lab.tables import markdown

RUNS = (1, 6, 18)
STEPS, ROUNDS = 200, 3


def main() -> None:
    rows = []
    for name, workload in WORKLOADS.items():
        if workload.files:
            continue
        short = dataclasses.replace(workload, steps=STEPS, points=2)
        program = Program(short, OPTIMIZERS['diffgrad'], short.task.load([]))
        times: dict[int, list[float]] = {count: [] for count in RUNS}
        for _ in range(ROUNDS):
            for count in RUNS:
                runs = [(2.0**workload.rate, seed) for seed in range(count)]
                times[count].append(
                    train(program, runs, test=False)[0]['seconds_per_step']
                )
        one, *more = (median(times[count]) for count in RUNS)
        rows.append(
            (
                name,
                f'{1e3 * one:.3g}',
                *(f'{1e3 * x:.3g} ({one / x:.1f} ×)' for x in more),
            )
        )
    at_once = [f'{count} at once (ms) ↓' for count in RUNS[1:]]
    print(markdown(('workload', 'alone (ms) ↓', *at_once), rows))


if __name__ == '__main__':
    cli.run(main)
