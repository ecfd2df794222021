"""One holder at a time, until it ends in whatever way."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from examples.common.cli import UserError


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds `directory`; a process that is killed lets go of it.

    The file `lock` stays there, empty: what holds is the open file, not its name.

    Raises:
      UserError: if another run holds it.
    """
    with (directory / 'lock').open('a', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f'{directory} is in use by a run that has not ended: wait '
                'for it, stop it, or choose another folder'
            ) from None
        yield
