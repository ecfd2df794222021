"""The run directory: settings, metrics, checkpoints, and how a run goes on.

    config.json      the settings, versions and device of the run
    metrics.jsonl    a line for each `log`, of an epoch for instance
    checkpoints/     the newest states, by orbax
    curves.png       loss and accuracy over the epochs, when it ends
    lock             held by the run while it lives
    damaged/         checkpoints that had changed when a run went on
    dropped.jsonl    lines past the checkpoint that a run went on from

A line counts once a checkpoint after it is complete, and a checkpoint knows how many
lines count; those past the newest are set aside when the run goes on. Of several
processes the first alone reads and writes the files, and all of them learn what came
of it.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from experiments.lab.checkpoints import Checkpoints
from experiments.lab.cli import UserError
from experiments.lab.divergence import NonFiniteError, all_finite
from experiments.lab.lock import held
from experiments.lab.output_files import write_atomically
from experiments.lab.processes import by_all, by_leader


class RunDirectory:
    """A directory that holds one run; a context that keeps other runs out of it.

    All processes call everything, in the same order.

    Args:
      path: of the directory; made if it is missing.
      settings: what decides the run's result, as JSON has it.
      facts: what else is worth keeping with the settings.
      keys: of what is read again of every line.
      resume: whether a run that is there already may go on.

    Raises:
      UserError: on entry, if the directory cannot be written, is in use, holds
        something else, or holds a run with other settings, or any run when `resume`
        is false; on exit, if the last state could not be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        settings: dict[str, Any],
        facts: dict[str, Any],
        keys: Collection[str],
        resume: bool,
    ) -> None:
        self.path = path
        self.metrics_path = path / 'metrics.jsonl'
        self._config = {'settings': settings, **facts}
        self._keys = keys
        self._resume = resume
        self._lines = 0
        self._held = contextlib.ExitStack()
        self._checkpoints = Checkpoints(path / 'checkpoints')

    def __enter__(self) -> 'RunDirectory':
        by_leader(self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._held:
            try:
                self._checkpoints.close()
            except Exception:  # after another it is not the one to hear of
                if kind is None:
                    raise

    def _take(self) -> None:
        """Makes the directory this run's."""
        path, config = self.path, self.path / 'config.json'
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not config.exists() and any(
                file.suffix != '.part' and file.name != 'lock'
                for file in path.iterdir()
            ):
                raise UserError(
                    f'--out-dir {path} is not empty and holds no run: choose another'
                )
            with contextlib.ExitStack() as stack:
                stack.enter_context(held(path))
                if config.exists():
                    check_same_run(config, self._config['settings'], self._resume)
                else:
                    write_atomically(config, json.dumps(self._config, indent=2) + '\n')
                self._held = stack.pop_all()
        except OSError as error:
            raise UserError(
                f'--out-dir {path} cannot be written ({error.strerror}): choose another'
            ) from error

    def restore(self, state: Any) -> tuple[Any, list[dict[str, Any]]]:
        """The newest good state, shaped and placed like `state`, and its metrics.

        `state` itself and no metrics if there is no checkpoint yet. Checkpoints that
        have changed since they were written are set aside, into `damaged`, and so is
        what was logged past the one that is used, into `dropped.jsonl`. To be called
        before anything is logged or saved.

        Raises:
          UserError: if every checkpoint has changed, the metrics have or have lost
            lines, or no checkpoint can be written.
        """
        found = by_leader(self._find)
        if found['step'] is not None:
            state = self._checkpoints.restore(found['step'], state)
        by_leader(lambda: self._set_aside(found))
        by_all(self._checkpoints.probe)
        self._lines = len(found['metrics'])
        return state, found['metrics']

    def _find(self) -> dict[str, Any]:
        """What there is to go on from; changes nothing."""
        newest, metrics = self._checkpoints.find(), self._metrics()
        lines = newest.note.get('lines', 0)
        if len(metrics) < lines:
            raise UserError(
                f'{self.metrics_path} has lost lines: {len(metrics)} where '
                f'checkpoint {newest.step} is of {lines}; put them back or choose '
                'another --out-dir'
            )
        return newest._asdict() | {'metrics': metrics[:lines]}

    def _set_aside(self, found: dict[str, Any]) -> None:
        """Moves away what is past the checkpoint to go on from."""
        counted = as_lines(found['metrics'])
        with self._writing():
            self._checkpoints.discard_unfinished()
            for name, wrong in found['damaged'].items():
                aside = self._checkpoints.set_aside(name)
                print(
                    f'warning: checkpoint {name} was damaged ({wrong}) and is now '
                    f'{aside}: the run goes on from {self._checkpoints.newest}',
                    file=sys.stderr,
                )
            if dropped := self._metrics()[len(found['metrics']) :]:
                with (self.path / 'dropped.jsonl').open('a', encoding='utf-8') as file:
                    file.write(as_lines(dropped))
            if self._text() != counted:
                write_atomically(self.metrics_path, counted)

    def log(self, line: dict[str, Any]) -> None:
        """Adds a line to the metrics.

        Raises:
          UserError: if it cannot be written.
        """
        by_leader(lambda: self._append(line))
        self._lines += 1

    def _append(self, line: dict[str, Any]) -> None:
        with self._writing(), self.metrics_path.open('a', encoding='utf-8') as file:
            file.write(as_lines([line]))
            file.flush()
            os.fsync(file.fileno())

    def save(self, state: Any, step: int) -> None:
        """Makes all lines so far count; is written while training goes on.

        Raises:
          NonFiniteError: if `state` is not finite.
          UserError: if the one before, which is whole only now, could not be written.
            No checkpoint is harmed.
        """
        if not all_finite(state):
            raise NonFiniteError(
                f'checkpoint {step} would hold infinities or NaNs and is not written'
            )
        self._checkpoints.save(state, step, {'lines': self._lines})

    def last_good(self) -> str:
        """What a run that stops now goes on from, in words."""
        self._checkpoints.wait()
        newest = self._checkpoints.newest
        return (
            f'the last good checkpoint is {newest}'
            if newest
            else ('there is no checkpoint yet')
        )

    def _metrics(self) -> list[dict[str, Any]]:
        """The metrics so far; a half-written line is none."""
        try:
            metrics = [json.loads(line) for line in self._text().split('\n')[:-1]]
            for line in metrics:
                if not isinstance(line, dict):
                    raise ValueError('a line is no object')
                for key in self._keys:
                    if key not in line:
                        raise ValueError(f'a line has no {key}')
            return metrics
        except ValueError as error:
            raise UserError(
                f'{self.metrics_path} is damaged ({error}): mend that line or choose '
                'another --out-dir'
            ) from error

    def _text(self) -> str:
        if not self.metrics_path.exists():
            return ''
        return self.metrics_path.read_text(encoding='utf-8')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells what cannot be written, and what to do about it."""
        try:
            yield
        except OSError as error:
            newest = self._checkpoints.newest
            raise UserError(
                f'{error.filename or self.path} cannot be written ({error.strerror}): '
                'make room if the disk is full, and repeat the command, which goes on '
                f'from {newest or "the beginning"}'
            ) from error


def as_lines(metrics: list[dict[str, Any]]) -> str:
    return ''.join(json.dumps(line) + '\n' for line in metrics)


def check_same_run(config_path: Path, settings: dict[str, Any], resume: bool) -> None:
    """Refuses to go on with a run that is another one."""
    place = config_path.parent
    if not resume:
        raise UserError(
            f'--out-dir {place} already holds a run: choose another, delete it, or '
            'continue it with --resume'
        )
    try:
        before = dict(json.loads(config_path.read_text(encoding='utf-8'))['settings'])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{config_path} is no configuration: choose another --out-dir'
        ) from error
    names = [
        name for name in settings | before if settings.get(name) != before.get(name)
    ]
    if names:
        differences = ', '.join(
            f'{name}={before.get(name)} (now {settings.get(name)})' for name in names
        )
        raise UserError(
            f'--out-dir {place} holds a run with {differences}: use its settings to '
            'continue it, or choose another'
        )
