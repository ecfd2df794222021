"""The commands of every page are ones that their programs take."""

import argparse
import contextlib
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for pattern in ('*.md', 'docs/**/*.md', 'experiments/*/README.md')
    for page in sorted(ROOT.glob(pattern))
]
LINE = re.compile(
    r'^(?:    +|\$ )?(?:\w+=\S+ )*[\w./-]*python[\d.]* -m (\S+)(.*)$', re.M
)


class ParsedError(Exception):
    """The arguments are in order; what comes after them is not run."""


def commands_of(text):
    """The module and the arguments of every `python -m` that has a line of its own."""
    joined = re.sub(r'\\\n\s*', '', text)
    for module, rest in LINE.findall(joined):
        arguments = shlex.split(rest.removesuffix('&'), comments=True)
        if module.startswith(('benchmarks.', 'experiments.', 'tests.')):
            yield module, arguments


def expanded(arguments):
    """As a shell does it in the root of the repository."""
    for argument in arguments:
        yield from (
            map(str, sorted(ROOT.glob(argument))) if '*' in argument else [argument]
        )


COMMANDS = sorted(
    {
        (module, *arguments)
        for page in PAGES
        for module, arguments in commands_of(page.read_text(encoding='utf-8'))
    }
)


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_the_program_takes_the_arguments(command, monkeypatch):
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise ParsedError

    module, *arguments = command
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    monkeypatch.setattr(sys, 'argv', [module, *expanded(arguments)])
    with contextlib.suppress(ParsedError):
        importlib.import_module(module).main()


def test_commands_are_found_over_lines_and_without_their_comments():
    text = (
        'Run\n\n    python -m experiments.toy.run --steps \\\n        3   # three\n\n'
        'or `python -m experiments.toy.run --nonsense` in a sentence, and\n\n'
        '    JAX_PLATFORMS=cpu .venv/3.11-x/bin/python -m benchmarks.compare &\n'
    )
    assert list(commands_of(text)) == [
        ('experiments.toy.run', ['--steps', '3']),
        ('benchmarks.compare', []),
    ]
    assert len(COMMANDS) > 30
