"""States on disk, by orbax, none of which is believed unless it is what was written.

Each is a directory named by its step. Orbax writes it under another name and renames
it when it is whole; before that it gets a file of checksums, because orbax hands out
arrays whose bits have changed without a word.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.lab.cli import UserError
from experiments.lab.processes import leads

CHECKSUMS, NOTE = 'checksums.json', 'note.json'

# Written by orbax whenever it likes, and read for nothing here.
UNCHECKED = (CHECKSUMS, '_CHECKPOINT_METADATA', 'commit_success.txt')


class Newest(NamedTuple):
    """What there is to go on from."""

    step: int | None  # None if there is nothing
    note: dict[str, Any]  # that was saved with the state
    damaged: dict[str, str]  # newer checkpoints, and what is wrong with them


class Checkpoints:
    """The two newest states of a run, and the one being written.

    Args:
      path: of their directory; made by `probe`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.newest: Path | None = None  # that is known to be good
        self._saving: tuple[Path, dict[str, Any]] | None = None
        # What orbax logs with pages of its own code it raises as well.
        logging.getLogger('absl').setLevel(logging.CRITICAL)
        self._orbax = ocp.StandardCheckpointer(
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal)
        )

    def probe(self) -> None:
        """Writes a number of each device, and deletes them.

        Raises:
          UserError: if orbax cannot write here.
        """
        everywhere = NamedSharding(Mesh(jax.devices(), 'all'), P('all'))
        numbers = jax.make_array_from_callback(
            (jax.device_count(),), everywhere, lambda _: np.zeros(1, np.float32)
        )
        try:
            # One that saves in the background leaves threads behind when it fails,
            # for which the process waits minutes before it ends.
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
                orbax.save(self.path / 'probe', {'numbers': numbers}, force=True)
        except Exception as error:  # of many libraries
            raise UserError(
                f'no checkpoint can be written into {self.path} ({reason(error)}): '
                'choose an --out-dir on another filesystem, or make room on this one'
            ) from error
        finally:
            if leads():
                for left in self.path.glob('probe*'):
                    shutil.rmtree(left, ignore_errors=True)

    def find(self) -> Newest:
        """The newest checkpoint whose files are what was written; changes nothing.

        Raises:
          UserError: if there are checkpoints, and all are damaged.
        """
        damaged: dict[str, str] = {}
        for step in reversed(self._steps()):
            place = self.path / str(step)
            if not (wrong := what_is_wrong(place)):
                note = json.loads((place / NOTE).read_text(encoding='utf-8'))
                return Newest(step, note, damaged)
            damaged[place.name] = wrong
        if damaged:
            raise UserError(
                f'no checkpoint in {self.path} is as it was written: '
                + ', '.join(f'{name} ({wrong})' for name, wrong in damaged.items())
                + '; put back a copy or choose another --out-dir'
            )
        return Newest(None, {}, {})

    def restore(self, step: int, state: Any) -> Any:
        """The state of a step, shaped and placed like `state`."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        place = self.path / str(step)
        try:
            state = self._orbax.restore(place, target)
        except Exception as error:  # another structure raises nearly anything
            raise UserError(
                f'{place} does not fit this program ({reason(error)}): use the '
                'versions that config.json names, or choose another --out-dir'
            ) from error
        self.newest = place
        return state

    def set_aside(self, name: str) -> Path:
        """Moves a damaged checkpoint out of the way; returns where it is."""
        aside = self.path.with_name('damaged')
        aside.mkdir(exist_ok=True)
        places = (aside / f'{name}{"+" * count}' for count in range(100))
        place = next(place for place in places if not place.exists())
        return (self.path / name).rename(place)

    def discard_unfinished(self) -> None:
        """Deletes what was being written when a run ended."""
        for place in self.path.glob('*.orbax-checkpoint-tmp*'):
            shutil.rmtree(place)

    def save(self, state: Any, step: int, note: dict[str, Any]) -> None:
        """Begins to write a state and a note to go with it; `wait` is its end.

        Raises:
          UserError: if the one before could not be written.
        """
        self.wait()
        place = self.path / str(step)
        try:
            self._delete_old()
            self._saving = place, note
            self._orbax.save(place, state)
        except Exception as error:  # of many libraries
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Waits until the last state is written.

        Raises:
          UserError: if it could not be.
        """
        try:
            self._orbax.wait_until_finished()
        except Exception as error:  # of many libraries
            raise self._unwritten(error) from error
        if self._saving is not None:
            self.newest, self._saving = self._saving[0], None

    def close(self) -> None:
        """Waits, and leaves the two newest."""
        self.wait()
        self._delete_old()
        self._orbax.close()

    def _steps(self) -> list[int]:
        return sorted(
            int(place.name) for place in self.path.glob('*') if place.name.isdecimal()
        )

    def _delete_old(self) -> None:
        if not leads():
            return
        for step in self._steps()[:-2]:
            place = self.path / str(step)
            # First, so that one half deleted is never taken for whole.
            (place / CHECKSUMS).unlink(missing_ok=True)
            shutil.rmtree(place)

    def _seal(self) -> None:
        """Called by orbax on process 0 when everything else is written."""
        assert self._saving is not None
        place, note = self._saving
        (place,) = place.parent.glob(f'{place.name}.orbax-checkpoint-tmp*')
        (place / NOTE).write_text(json.dumps(note), encoding='utf-8')
        sums = {
            str(file.relative_to(place)): checksum(file)
            for file in sorted(place.rglob('*'))
            if file.is_file() and file.name not in UNCHECKED
        }
        (place / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding='utf-8')

    def _unwritten(self, error: Exception) -> UserError:
        place = self._saving[0] if self._saving else self.path
        good = f'from {self.newest}' if self.newest else 'from the beginning'
        return UserError(
            f'{place} could not be written ({reason(error)}): make room if the disk '
            f'is full, and repeat the command, which goes on {good}'
        )


def what_is_wrong(place: Path) -> str:
    """What tells a checkpoint from what was written; nothing if it is the same."""
    try:
        sums = dict(json.loads((place / CHECKSUMS).read_text(encoding='utf-8')))
    except FileNotFoundError:
        return 'it has no checksums'
    except (OSError, ValueError, TypeError):
        return f'{CHECKSUMS} is damaged'
    for name, expected in sums.items():
        try:
            same = checksum(place / name) == expected
        except (OSError, ValueError) as error:
            return f'{name} cannot be read: {reason(error)}'
        if not same:
            return f'{name} has changed'
    return '' if NOTE in sums else f'{CHECKSUMS} is damaged'


def checksum(file: Path) -> str:
    with file.open('rb') as content:
        return hashlib.file_digest(content, 'sha256').hexdigest()


def reason(error: Exception) -> str:
    """Why a file could not be written or read, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return f'{type(error).__name__}: {" ".join(str(error).split()):.200}'
