"""A public name that no page documents is a warning, and with -W the end of a build."""

from collections.abc import Container, Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import diffgrad_optax

logger = logging.getLogger(__name__)


def undocumented(documented: Container[str]) -> Iterator[str]:
    """The public names, in full, that are not among those documented."""
    for module in (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules):
        for name in module.__all__:
            if f'{module.__name__}.{name}' not in documented:
                yield f'{module.__name__}.{name}'


def check(app: Sphinx, env: BuildEnvironment) -> None:
    for name in undocumented(env.domains.python_domain.objects):
        logger.warning('%s is public, and no page documents it', name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect('env-check-consistency', check)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
