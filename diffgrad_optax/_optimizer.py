"""What makes an optimizer of a transformation: weight decay and a learning rate."""

from collections.abc import Callable
from typing import Any

import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import stable_dtypes

Mask = Any | Callable[[optax.Params], Any] | None


def optimizer(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule | None,
    mask: Mask,
    *links: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """The chain of `links`, decoupled weight decay unless that is None, and the rate.

    Raises:
      ValueError, TypeError: if an argument is not what the table of checks allows, or
        there is a `mask` and nothing that it masks.
    """
    check(learning_rate=learning_rate)
    links += (*decay(weight_decay, mask), optax.scale_by_learning_rate(learning_rate))
    return stable_dtypes(optax.chain(*links))


def decay(
    weight_decay: optax.ScalarOrSchedule | None,
    mask: Mask,
    step: optax.ScalarOrSchedule = 1.0,
) -> list[optax.GradientTransformation]:
    """The link of a chain that adds decoupled weight decay; no link if that is None.

    What is added is the parameter times `weight_decay` and `step`.

    Raises:
      ValueError, TypeError: as `optimizer`.
    """
    check(mask=mask)
    if weight_decay is None:
        if mask is not None:
            raise ValueError(f'mask needs a weight_decay, got mask={mask!r} and None')
        return []
    check(weight_decay=weight_decay)
    return [optax.add_decayed_weights(product(weight_decay, step), mask)]


def product(a: Any, b: Any) -> Any:
    """The product of two numbers, or of schedules."""
    if not callable(a) and not callable(b):
        return a * b
    return lambda count: product(*(x(count) if callable(x) else x for x in (a, b)))
