"""Signatures show unions of many types by the names that JAX and optax give them."""

from typing import Any

import jax
import optax
from sphinx.application import Sphinx

import diffgrad_optax
from diffgrad_optax import friction, schedules
from diffgrad_optax._optimizer import Mask

# Python replaces the name of a union by its members. `~` hides the module's name.
NAMES = {
    jax.typing.ArrayLike: '~jax.typing.ArrayLike',
    optax.Params: '~chex.ArrayTree',
    optax.Schedule: '~optax.Schedule',
    optax.ScalarOrSchedule: '~optax.ScalarOrSchedule',
    Mask: '~chex.ArrayTree | ~collections.abc.Callable',
}
NAMES |= {hint | None: f'{name} | None' for hint, name in NAMES.items()}


def shorten(app: Sphinx) -> None:
    for module in (diffgrad_optax, friction, schedules):
        for name in module.__all__:
            hints = getattr(getattr(module, name), '__annotations__', {})
            hints.update({key: NAMES.get(hint, hint) for key, hint in hints.items()})


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect('builder-inited', shorten)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
