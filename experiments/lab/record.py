"""Results of runs that are compared: a file that grows by a line for each run.

A line is what the run's `config.json` holds (its settings, devices and versions), the
commit, its metrics and the seconds that its epochs took. A run that diverged has no
metrics, no seconds, and says why: it is a result, and is not run again while its line
is there. Programs only add lines, so that a file made in many sittings, on many
machines, is still one table.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from experiments.lab.cli import UserError
from experiments.lab.divergence import DivergedError
from experiments.lab.environment import commit
from experiments.lab.lock import held, lock

# How the line of every run begins.
START = b'{"settings": '
# What a run calls the data that it learns; their checksum says what they are.
DATA = ('dataset', 'tokens', 'limit_train', 'limit_test')


class Config(Protocol):
    """What a run is told: a dataclass with defaults, an `out_dir` and `resume`."""

    def settings(self) -> dict[str, Any]:
        """What decides the run's result."""


class Record:
    """The runs that a file in JSON lines holds.

    Args:
      path: of the file, which need not exist yet.

    Raises:
      UserError: if a line is no run. An unfinished last line is none, and is cut off
        by the next `add`; one that lacks nothing but its end is a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = []
        content = path.read_bytes() if path.exists() else b''
        *lines, rest = content.split(b'\n')
        if run_in(rest) is not None:
            lines.append(rest)
        elif not (rest.startswith(START) or START.startswith(rest)):
            raise UserError(
                f'{path} ends with what is no result of a run: choose another file'
            )
        for number, line in enumerate(lines, start=1):
            run = run_in(line)
            if run is None:
                raise UserError(
                    f'{path}, line {number}, is no result of a run: mend it, or choose '
                    'another file'
                )
            self.runs.append(run)

    def find(self, config: Config) -> dict[str, Any] | None:
        """The run with these settings, if there is one.

        A setting that the run knew nothing of had its default then.
        """
        wanted = json.loads(json.dumps(config.settings()))
        defaults = json.loads(json.dumps(type(config)().settings()))
        for run in self.runs:
            had = defaults | run['settings']
            if all(had[name] == value for name, value in wanted.items()):
                return run
        return None

    def check_data(self, settings: Mapping[str, Any]) -> None:
        """Refuses to join runs on data that have one name and are not the same.

        Runs that have no checksum are not judged.

        Args:
          settings: a run's, with the `data_checksum` of what it learns.

        Raises:
          UserError: if a run that is here learnt from other data.
        """
        mine = settings.get('data_checksum')
        for run in self.runs:
            theirs = run['settings']
            if theirs.get('data_checksum', mine) != mine and all(
                theirs.get(name) == settings.get(name) for name in DATA
            ):
                raise UserError(
                    f'{self.path} is of other data: theirs have the checksum '
                    f'{theirs["data_checksum"]}, these {mine}. Choose another file, by '
                    '--results or --out-dir'
                )

    def add(self, run: dict[str, Any]) -> None:
        """Adds a run, to the file first, after what others have added meanwhile.

        Raises:
          UserError: as `check_data`, or if the file cannot be written.
        """
        self.check_data(run['settings'])
        line = json.dumps(run).encode() + b'\n'
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open('a+b') as file:
                lock(file)
                file.seek(0)
                content = file.read()
                end = content.rfind(b'\n') + 1
                if run_in(content[end:]) is None:
                    file.truncate(end)
                else:
                    file.write(b'\n')
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f'{self.path} cannot be written ({error.strerror}): make room if the '
                'disk is full, and repeat the command'
            ) from error
        self.runs.append(run)


def run_in(line: bytes) -> dict[str, Any] | None:
    """The run that a line holds, if it is one."""
    try:
        run = json.loads(line)
        run['settings'], run['metrics']
    except (ValueError, KeyError, TypeError):
        return None
    return run


def settings_by_data(
    configs: Iterable[Config], checksum: Callable[[Any], str]
) -> Iterator[dict[str, Any]]:
    """The settings of one run on each data that are there, with their checksum."""
    seen = set()
    for config in configs:
        settings = config.settings()
        names = tuple(settings.get(name) for name in DATA)
        if names not in seen:
            seen.add(names)
            try:
                of_data = checksum(config)
            except UserError:
                continue  # whoever needs them will say so
            yield settings | {'data_checksum': of_data}


def outcome(train: Callable[[Any], Any], config: Any) -> dict[str, Any]:
    """What is recorded of a run when it ends: its metrics, or why it has none."""
    try:
        return {'metrics': train(config).metrics}
    except DivergedError as error:
        return {'metrics': [], 'diverged': error.reason}


def run_missing(
    path: Path,
    configs: Mapping[str, Any],
    train: Callable[[Any], Any],
    *,
    checksum: Callable[[Any], str],
    runs_dir: Path,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> Record:
    """Runs what the file has no line of, in order, and adds a line for each.

    A run that is interrupted goes on when the command is repeated. When its line is
    written its folder is deleted: networks of hundreds of runs are not kept. A run
    that diverges has a line too, and keeps no other from being made.

    Args:
      path: of the file.
      configs: for each run's name, which is its folder's, what it is told.
      train: trains as a configuration says; what it returns has `metrics`.
      checksum: of the data that a configuration names; a UserError where they are
        not there.
      runs_dir: where the runs' folders are.
      minutes: after which no run is begun; None is without end.
      say: what to do with the line that reports a run.

    Raises:
      UserError: as `train`, if another process is at it, or if the file is of other
        data.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with held(runs_dir):
        record = Record(path)
        for settings in settings_by_data(configs.values(), checksum):
            record.check_data(settings)
        missing = {n: c for n, c in configs.items() if record.find(c) is None}
        done = len(configs) - len(missing)
        for name, config in missing.items():
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                break
            folder = runs_dir / name
            config = dataclasses.replace(config, out_dir=folder, resume=True)
            result = outcome(train, config)
            seconds = sum(line['seconds'] for line in result['metrics'])
            told = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
            record.add(told | {'commit': commit(), 'seconds': seconds} | result)
            shutil.rmtree(folder)
            done += 1
            reason = result.get('diverged')
            end = f'diverged: {reason}' if reason else f'{seconds:.0f} s'
            say(f'{done:4d} of {len(configs)}  {name}  {end}')
    return record
