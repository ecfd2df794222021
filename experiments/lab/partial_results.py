"""Arrays of a computation of minutes, kept for the call after an interrupted one."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.cli import UserError
from experiments.lab.environment import commit

OF = 'of.json'


class PartialResults:
    """Arrays by name, in a folder of their own until everything is done.

    Those of another computation are thrown away, those of code that is in no commit
    too: none is ever mixed into a result.

    Args:
      folder: of these arrays alone.
      of: what decides them beside the code, as JSON has it.

    Raises:
      UserError: if the folder holds something else.
    """

    def __init__(self, folder: Path, of: Mapping[str, Any]) -> None:
        self.folder = folder
        code = commit() or '-dirty'
        if code.endswith('-dirty'):
            code = str(uuid.uuid4())
        told, note = json.dumps({**of, 'code': code}), folder / OF
        if folder.exists() and not note.exists():
            raise UserError(
                f'{folder} has no {OF}, so it is not of an interrupted call: move it, '
                'or choose another --out-dir'
            )
        if note.exists() and note.read_text(encoding='utf-8') != told:
            shutil.rmtree(folder)
        if not folder.exists():
            fresh = folder.with_name(f'{folder.name}-{uuid.uuid4()}')
            fresh.mkdir(parents=True)
            (fresh / OF).write_text(told, encoding='utf-8')
            fresh.rename(folder)

    def get(
        self, name: str, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays of this name, computed where it is not there whole."""
        path = self.folder / f'{name}.npz'
        with contextlib.suppress(Exception):  # a damaged file raises nearly anything
            return read(path)
        part = path.with_name(path.name + '.part')
        with part.open('wb') as file:
            np.savez(file, allow_pickle=False, **compute())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return read(path)

    def clear(self) -> None:
        """Deletes them, when the result is written."""
        shutil.rmtree(self.folder)


def read(path: Path) -> dict[str, np.ndarray]:
    # np.load leaves open what it has opened and finds damaged.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
