"""The run directory: settings, metrics, checkpoints, and how a run goes on.

    config.json      the settings, versions and device of the run
    metrics.jsonl    one line per epoch
    checkpoints/     the newest states, by orbax
    curves.png       loss and accuracy over the epochs, when it ends

An epoch counts once a checkpoint after it is complete: lines in `metrics.jsonl` are
written before, and those past the newest checkpoint are set aside, into
`dropped.jsonl`, when the run goes on.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from examples.common.cli import UserError


class RunDirectory:
    """A directory that holds one run; a context that closes its checkpoints.

    Args:
      path: of the directory; made if it is missing.
      settings: what decides the run's result, as JSON has it.
      facts: what else is worth keeping with the settings.
      resume: whether a run that is there already may go on.

    Raises:
      UserError: if the directory cannot be written, holds something else, or
        holds a run with other settings, or any run when `resume` is false.
    """

    def __init__(
        self,
        path: Path,
        *,
        settings: dict[str, Any],
        facts: dict[str, Any],
        resume: bool,
    ) -> None:
        self.path = path
        self.metrics_path = path / 'metrics.jsonl'
        config_path = path / 'config.json'
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if config_path.exists():
                check_same_run(config_path, settings, resume)
            elif any(file.suffix != '.part' for file in path.iterdir()):
                raise UserError(
                    f'--out-dir {path} is not empty and holds no run: choose another'
                )
            else:
                record = {'settings': settings, **facts}
                write_atomically(config_path, json.dumps(record, indent=2) + '\n')
        except OSError as error:
            raise UserError(
                f'--out-dir {path} cannot be written ({error.strerror}): choose another'
            ) from error
        self.checkpoints = ocp.CheckpointManager(
            (path / 'checkpoints').absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=2),
        )

    def __enter__(self) -> 'RunDirectory':
        return self

    def __exit__(self, *exception: object) -> None:
        self.checkpoints.close()

    def restore(self, state: Any) -> tuple[Any, list[dict[str, Any]]]:
        """The newest state, shaped and placed like `state`, and its epochs' metrics.

        `state` itself and no metrics if there is no checkpoint yet. Metrics past the
        checkpoint are set aside, into `dropped.jsonl`.

        Raises:
          UserError: if a file is damaged or has lost lines.
        """
        epoch = self.checkpoints.latest_step() or 0
        metrics = self.metrics()
        if len(metrics) < epoch:
            raise UserError(
                f'{self.metrics_path} has lost lines: {len(metrics)} where the '
                f'checkpoint is of epoch {epoch}; put them back or choose another '
                '--out-dir'
            )
        if epoch:
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            try:
                state = self.checkpoints.restore(
                    epoch, args=ocp.args.StandardRestore(target)
                )
            except Exception as error:  # a damaged checkpoint raises nearly anything
                place = self.path / 'checkpoints' / str(epoch)
                raise UserError(
                    f'{place} is damaged ({type(error).__name__}): delete it to go on '
                    'from the one before it'
                ) from error
        if len(metrics) > epoch:
            with (self.path / 'dropped.jsonl').open('a') as file:
                file.write(as_lines(metrics[epoch:]))
            write_atomically(self.metrics_path, as_lines(metrics[:epoch]))
        return state, metrics[:epoch]

    def log(self, metrics: dict[str, Any]) -> None:
        """Adds an epoch's metrics."""
        with self.metrics_path.open('a') as file:
            file.write(as_lines([metrics]))
            file.flush()
            os.fsync(file.fileno())

    def save(self, state: Any, epoch: int) -> None:
        """Makes all epochs up to `epoch` count; is written while the next one runs."""
        self.checkpoints.save(epoch, args=ocp.args.StandardSave(state))

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of every epoch so far; a half-written line is none."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().split('\n')
        try:
            return [json.loads(line) for line in lines[:-1]]
        except ValueError as error:
            raise UserError(
                f'{self.metrics_path} is damaged ({error}): mend that line or choose '
                'another --out-dir'
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
        before = dict(json.loads(config_path.read_text())['settings'])
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


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there either whole or not at all."""
    part = path.with_name(path.name + '.part')
    with part.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
