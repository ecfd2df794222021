"""Whether numbers are finite, and what is raised where a loss is not."""

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.lab.cli import UserError


class NonFiniteError(Exception):
    """A loss or a state that is infinite or NaN: says where."""


class DivergedError(UserError):
    """A run that ends because its loss or state is no number any more.

    Args:
      reason: what is not a number any more, and when.
      advice: where the run is left, and what can be done.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f'{reason}: {advice}')
        self.reason = reason


def refusal(error: NonFiniteError, last_good: str, non_finite: str) -> DivergedError:
    """What a run that stops for `error` says.

    Args:
      error: says where.
      last_good: what the run can go on from.
      non_finite: what was to be done: `stop` or `skip`.
    """
    advice = 'Try a smaller --learning-rate in another --out-dir'
    if non_finite == 'stop':
        advice += ', or --non-finite skip in this one'
    return DivergedError(str(error), f'{last_good}. {advice}')


def check_losses(line: Mapping[str, Any]) -> None:
    """Refuses an epoch whose losses are no numbers, a test loss above all.

    The last step's update may destroy a network whose state is finite all the same.

    Args:
      line: what is logged of the epoch.

    Raises:
      NonFiniteError: naming the loss.
    """
    for name, value in line.items():
        if name.endswith('_loss') and not math.isfinite(value):
            raise NonFiniteError(
                f'the {name.replace("_", " ")} of epoch {line["epoch"]} is infinite or '
                'NaN'
            )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf of `tree` holds an infinity or a NaN; keys are not looked at."""
    return functools.reduce(
        operator.and_,
        (
            jnp.all(jnp.isfinite(leaf))
            for leaf in jax.tree.leaves(tree)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ),
        jnp.bool_(True),
    )
