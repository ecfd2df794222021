"""The benchmarks' command line: wrong input and broken files end in one line."""

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

OUTSIDE_RESULTS = ('--', ':(top)', ':(top,exclude)docs')


class UserError(Exception):
    """Wrong input: one line that says what is wrong and what to do about it."""


def path(text: str) -> Path:
    """The `type` of a flag that is a path: from the root on if it begins with `~`."""
    if re.match(r'[\w+.-]+://', text):
        raise argparse.ArgumentTypeError(f'{text} is a URL: give a local path')
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f'{text} begins with no home directory: write the path without ~'
        ) from error


def run(main: Callable[[], None]) -> None:
    """Runs a program: wrong input ends it with one line and exit status 2.

    Characters that the terminal's encoding lacks are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not if a caller has replaced it
            stream.reconfigure(errors='backslashreplace')
    try:
        main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = '' if error.filename is None else f'{error.filename}: '
        print(f'error: {place}{error.strerror or error}', file=sys.stderr)
        sys.exit(2)


def write_atomically(file: Path, text: str) -> None:
    """Writes a file that is there either whole or not at all."""
    part = file.with_name(file.name + '.part')
    with part.open('w', encoding='utf-8') as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is flushed left."""
    rule = '|'.join(['---', *['---:'] * (len(header) - 1)])
    lines = (f'| {" | ".join(cells)} |' for cells in (header, *rows))
    first, *rest = lines
    return '\n'.join([first, f'|{rule}|', *rest])


def commit() -> str | None:
    """COMMIT's value, for copies of a checkout, else what is checked out, else None.

    It ends with -dirty where tracked files differ, the results in docs aside.
    """
    if given := os.environ.get('COMMIT'):
        return given

    def git(*arguments: str) -> str:
        command = ['git', *arguments]
        folder = Path(__file__).parent
        done = subprocess.run(
            command, cwd=folder, capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    try:
        changed = git('status', '--porcelain', '--untracked-files=no', *OUTSIDE_RESULTS)
        return git('describe', '--always') + ('-dirty' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None
