"""Arguments and errors that several functions share are documented at one of them.

The others say ``b1, b2: as :func:`diffgrad`.``; the page of each shows the text.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

import diffgrad_optax
from diffgrad_optax import friction

SHARED = re.compile(r'(?P<margin> +)(?P<names>\w+(, \w+)*): as :func:`(?P<at>\w+)`\.')


def argument_text(lines: list[str], name: str) -> list[str]:
    """The lines that document the argument `name`."""
    begin = next(i for i, line in enumerate(lines) if line.startswith(f'  {name}: '))
    end = begin + 1
    while lines[end].startswith('   '):
        end += 1
    return lines[begin:end]


def expanded(lines: list[str]) -> Iterator[str]:
    """`lines`, with the shared text where they point at it."""
    for line in lines:
        if not (shared := SHARED.fullmatch(line)):
            yield line
            continue
        owner = friction if shared['at'] in friction.__all__ else diffgrad_optax
        function = getattr(owner, shared['at'])
        documented = (inspect.getdoc(function) or '').splitlines()
        for name in shared['names'].split(', '):
            for text in argument_text(documented, name):
                yield shared['margin'][2:] + text


def expand(
    app: Sphinx, what: str, name: str, object_: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = expanded(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension('sphinx.ext.autodoc')
    app.connect('autodoc-process-docstring', expand, priority=100)  # before napoleon
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
