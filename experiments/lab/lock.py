"""One holder at a time, until it ends in whatever way."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from experiments.lab.cli import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# What a filesystem without locks answers.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds `directory`; a process that is killed lets go of it.

    The file `lock` stays there, empty: what holds is the open file, not its name.

    Raises:
      UserError: if another run holds it.
    """
    with (directory / 'lock').open('a', encoding='utf-8') as file:
        try:
            lock(file, wait=False)
        except BlockingIOError:
            raise UserError(
                f'{directory} is in use by a run that has not ended: wait '
                'for it, stop it, or choose another folder'
            ) from None
        yield


def lock(file: IO[Any], *, wait: bool = True) -> None:
    """Locks an open file until it is closed; warns where the filesystem cannot.

    Raises:
      BlockingIOError: if another process has locked it, unless `wait`.
      UserError: on Windows.
    """
    if fcntl is None:
        raise UserError(f'{file.name} cannot be locked: run this on Linux or macOS')
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f'warning: {file.name} cannot be locked ({error.strerror}): start no '
            'second program that writes there while this one runs',
            file=sys.stderr,
        )
