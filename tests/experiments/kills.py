"""Kills a run at random moments, lets it go on, and compares it with one left alone.

    python -m tests.experiments.kills --kills 20 --seed 0

Every kill is a SIGKILL. The parts that tests use are here too.
"""

import argparse
import collections
import importlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from experiments.cifar import train
from experiments.cifar.config import Config
from experiments.lab import cli
from experiments.lab.checkpoints import what_is_wrong
from experiments.lab.processes import connect

# Its server has imported what takes long, and no device of JAX's is in use there.
FRESH = multiprocessing.get_context('forkserver')
FRESH.set_forkserver_preload(['experiments.cifar.train'])


def small(path: Path, **changes: Any) -> Config:
    """A run of which an epoch takes hundredths of a second."""
    arguments = {
        'model': 'mlp',
        'width': 8,
        'limit_train': 128,
        'limit_test': 48,
        'batch_size': 32,
        'learning_rate': 0.01,
        'epochs': 6,
        'out_dir': path,
    }
    return Config(**arguments | changes)


def start(
    config: Config,
    cache: Path,
    *,
    environment: dict[str, str] | None = None,
    dies_in: tuple[str, str, int] | None = None,
) -> BaseProcess:
    """Starts a run in a process of its own.

    Args:
      config: of the run.
      cache: where compiled programs are kept for the next.
      environment: what JAX is to find in it.
      dies_in: a module, a function there, and the call of it that never returns.
    """
    process = FRESH.Process(target=_run, args=(config, cache, environment, dies_in))
    process.start()
    return process


def _run(
    config: Config,
    cache: Path,
    environment: dict[str, str] | None,
    dies_in: tuple[str, str, int] | None,
) -> None:
    os.environ.update(environment or {})
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which outlives a kill
    if dies_in is not None:
        _lay_trap(*dies_in)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)

    def main() -> None:
        connect()
        train.train(config)

    cli.run(main)


def _lay_trap(module: str, path: str, fatal: int) -> None:
    """Makes the process die when a function is called for the `fatal`-th time."""
    owner: Any = importlib.import_module(module)
    *owners, name = path.split('.')
    for part in owners:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), []

    def trap(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, trap)


def metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run, without what depends on the machine."""
    file = path / 'metrics.jsonl'
    lines = file.read_text().split('\n')[:-1] if file.exists() else []
    times = ('seconds', 'images_per_second')
    return [
        {name: value for name, value in json.loads(line).items() if name not in times}
        for line in lines
    ]


def newest_state(path: Path) -> dict[str, np.ndarray]:
    """Every array of a run's newest checkpoint, by name."""
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(newest_checkpoint(path).absolute())
    return {
        jax.tree_util.keystr(name): np.asarray(leaf)
        for name, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def newest_checkpoint(path: Path) -> Path:
    places = [p for p in (path / 'checkpoints').iterdir() if p.name.isdecimal()]
    return max(places, key=lambda place: int(place.name))


def assert_same_result(path: Path, expected: Path) -> None:
    """The same lines, each once, and the same bits in every array."""
    assert metrics(path) == metrics(expected)
    states = newest_state(path), newest_state(expected)
    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        assert array.tobytes() == states[1][name].tobytes(), name
    assert not (path / 'damaged').exists()


def assert_nothing_half_believed(path: Path) -> None:
    """What has the name of a checkpoint is one, and has its lines."""
    if list((path / 'checkpoints').glob('[0-9]')):
        newest = newest_checkpoint(path)
        assert not what_is_wrong(newest), newest
        assert len(metrics(path)) >= int(newest.name)


def kill_at_random(config: Config, cache: Path, generator: random.Random) -> str:
    """Starts a run and kills it; returns what it was doing, nothing if it ended."""
    path = config.out_dir
    before = len(metrics(path))
    process = start(config, cache)
    if generator.random() < 0.3:
        time.sleep(generator.uniform(0, 3))
    else:
        while len(metrics(path)) <= before and process.is_alive():
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.15))
    process.kill()
    process.join()
    if process.exitcode == 0:
        return ''
    assert process.exitcode == -signal.SIGKILL
    assert_nothing_half_believed(path)
    if list((path / 'checkpoints').glob('*-tmp')):
        return 'in a save'
    return 'at the start' if len(metrics(path)) <= before else 'between saves'


def finish(config: Config, cache: Path) -> None:
    """Lets a run go on to its end."""
    process = start(config, cache)
    process.join()
    assert process.exitcode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, epochs = Path(folder), 10 * arguments.kills
        whole, killed = (
            small(root / name, epochs=epochs) for name in ('whole', 'killed')
        )
        finish(whole, root / 'cache')
        generator, kills = random.Random(arguments.seed), collections.Counter()
        for _ in range(arguments.kills):
            kills[kill_at_random(killed, root / 'cache', generator)] += 1
        reached = len(metrics(root / 'killed'))
        finish(killed, root / 'cache')
        assert_same_result(root / 'killed', root / 'whole')
    said = ', '.join(
        f'{count} {moment or "too late"}' for moment, count in kills.items()
    )
    print(
        f'{arguments.kills} kills ({said}) by epoch {reached} of {epochs}: the same '
        'metrics, line by line, and the same bits in the last state as without'
    )


if __name__ == '__main__':
    main()
