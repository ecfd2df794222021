"""Finding files, and writing over none of somebody else's."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.lab.cli import UserError


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there either whole or not at all."""
    part = path.with_name(path.name + '.part')
    with part.open('w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def check_replaceable(
    path: Path,
    told: Callable[[Any], Any],
    settings: Any,
    *drawn: str,
    named: str = 'these settings',
) -> None:
    """Refuses to write a result over anything else than one of the same settings.

    Args:
      path: of the result, in JSON, which need not exist.
      told: of what is there, what its settings were.
      settings: those of what will be written.
      *drawn: the names of files that are made from the result, beside it.
      named: what they are to the user.

    Raises:
      UserError: if something else is there.
    """
    check_drawable(path, *map(path.with_name, drawn))
    if not path.exists():
        return
    try:
        same = told(json.loads(path.read_text(encoding='utf-8'))) == settings
    except (ValueError, LookupError, TypeError, AttributeError):
        same = False
    if not same:
        raise UserError(
            f'{path} is there and is no result of {named}: choose another --out-dir'
        )


def check_drawable(path: Path, *drawn: Path) -> None:
    """Refuses to draw over `path` itself, or over what cannot be drawn from it.

    Raises:
      UserError: naming the first of them.
    """
    for file in drawn:
        if file == path:
            raise UserError(f'{path} would be drawn over: give it another ending')
        if file.exists() and not path.exists():
            raise UserError(
                f'{file} is there without {path.name}, which it would be drawn from: '
                'choose another place'
            )


def check_ours(runs: object, *made: Path) -> None:
    """Refuses to write over files that are there though none of their runs is.

    Args:
      runs: those that are there, of what will be written; false if there are none.
      *made: what will be written.

    Raises:
      UserError: naming the first of them.
    """
    for file in made:
        if file.exists() and not runs:
            raise UserError(
                f'{file} is there without the runs that it would be made from: choose '
                'another place, or delete it'
            )
