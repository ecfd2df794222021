"""Runs as lines of JSON in a file that grows: one file for each workload."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from experiments.comparison.design import OPTIMIZERS, Workload
from experiments.comparison.plan import Run

FOLDER = Path('docs/results/comparison')


def settings(workload: Workload) -> dict[str, Any]:
    """What decides a run's result, apart from its data, rate and seed."""
    names = ('version', 'steps', 'batch', 'decay', 'clip')
    return {name: getattr(workload, name) for name in names}


def key(workload: Workload, checksum: str) -> dict[str, Any]:
    """What lines have in common that may be compared with each other."""
    minor = '.'.join(jax.__version__.split('.')[:2])
    return {'settings': settings(workload), 'data': checksum, 'jax': minor}


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a last one that was cut short is none."""
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding='utf-8').split('\n')
    return [json.loads(line) for line in lines]


def add(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Adds lines, in the place of a last one that was cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+b') as file:
        file.seek(0)
        file.truncate(file.read().rfind(b'\n') + 1)
        file.write(b''.join(f'{json.dumps(line)}\n'.encode() for line in lines))
        file.flush()
        os.fsync(file.fileno())


def of_key(
    lines: Iterable[dict[str, Any]], key: dict[str, Any]
) -> dict[str, dict[Run, dict[str, Any]]]:
    """The runs of each optimizer that were made with this key."""
    runs: dict[str, dict[Run, dict[str, Any]]] = {name: {} for name in OPTIMIZERS}
    for line in lines:
        if all(line[name] == value for name, value in key.items()):
            runs.setdefault(line['optimizer'], {})[line['rate'], line['seed']] = line
    return runs
