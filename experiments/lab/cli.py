"""A typed command line: a frozen dataclass of settings becomes its flags."""

import argparse
import dataclasses
import io
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Settings = TypeVar('Settings')

MOST = 2**31 - 1  # the largest number that devices count with, in int32


class UserError(Exception):
    """Wrong input: one line that says what is wrong and what to do about it."""


def option(default: Any, help: str, choices: Iterable[str] | None = None) -> Any:
    """A dataclass field with the help text of its flag, and what its values may be."""
    metadata: dict[str, Any] = {'help': help}
    if choices is not None:
        metadata['choices'] = tuple(choices)
    return dataclasses.field(default=default, metadata=metadata)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message} (--help lists everything)')


def parse(
    settings: type[Settings], argv: Sequence[str] | None = None, description: str = ''
) -> Settings:
    """Makes `settings` from command-line arguments.

    Each field is a flag: `batch_size: int` is `--batch-size 128`, a Literal
    offers its values, a bool is `--resume / --no-resume`, a tuple takes several
    values, and `T | None` is a T that may be left out.

    Args:
      settings: a dataclass whose fields all have defaults, made by `option`.
      argv: the arguments, by default the process's own.
      description: the first paragraph of `--help`.

    Raises:
      UserError: for an unknown flag, or a value that does not fit its field.
    """
    parser = _OneLineParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        flag = '--' + field.name.replace('_', '-')
        shared: dict[str, Any] = {'default': field.default, **field.metadata}
        kind = _without_none(hints[field.name])
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
            continue
        if typing.get_origin(kind) is tuple:
            kind, shared['nargs'] = typing.get_args(kind)[0], '+'
        if typing.get_origin(kind) is typing.Literal:
            parser.add_argument(flag, choices=typing.get_args(kind), **shared)
        else:
            if 'choices' not in shared:
                shared['metavar'] = kind.__name__.upper()
            parser.add_argument(flag, type=path if kind is Path else kind, **shared)
    values = vars(parser.parse_args(argv))
    return settings(
        **{k: tuple(v) if type(v) is list else v for k, v in values.items()}
    )


def path(text: str) -> Path:
    """The `type` of a flag that is a path: from the root on if it begins with `~`."""
    if re.match(r'[\w+.-]+://', text):
        raise argparse.ArgumentTypeError(
            f'{text} is a URL, which cannot be read or written: give a local path'
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f'{text} begins with no home directory: write the path without ~'
        ) from error


def _without_none(hint: Any) -> Any:
    """T of `T | None`, and any other type as it is."""
    if isinstance(hint, types.UnionType):
        (hint,) = (t for t in typing.get_args(hint) if t is not types.NoneType)
    return hint


def at_least(settings: Any, **least: int) -> None:
    """Refuses the first setting that is below its least, or an integer above MOST.

    A setting that is None passes.
    """
    for name, number in least.items():
        value, flag = getattr(settings, name), name.replace('_', '-')
        if value is not None and not value >= number:
            raise UserError(f'--{flag} {value} must be at least {number}')
        if isinstance(value, int) and value > MOST:
            raise UserError(f'--{flag} {value} must be at most {MOST}')


def run(main: Callable[[], None]) -> None:
    """Runs a program: wrong input ends it with one line and exit status 2.

    So does a file that cannot be read or written. Characters that the terminal's
    encoding lacks are printed as escapes.
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
        said = error.strerror or str(error) or type(error).__name__
        print(f'error: {place}{said}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted: repeat the command', file=sys.stderr)
        sys.exit(130)
