"""What makes an optimizer of a transformation: weight decay and a learning rate."""

from collections.abc import Callable
from typing import Any

import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import stable_dtypes

Mask = Any | Callable[[optax.Params], Any] | None


def optimizer(
    *links: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule | None,
    mask: Mask,
) -> optax.GradientTransformationExtraArgs:
    """The chain of `links`, decoupled weight decay unless that is None, and the rate.

    Raises:
      ValueError, TypeError: if an argument is not what the table of checks allows, or
        there is a `mask` and nothing that it masks.
    """
    check(learning_rate=learning_rate, mask=mask)
    if weight_decay is not None:
        check(weight_decay=weight_decay)
        links += (optax.add_decayed_weights(weight_decay, mask),)
    elif mask is not None:
        raise ValueError(f'mask needs a weight_decay, got mask={mask!r} and None')
    return stable_dtypes(
        optax.chain(*links, optax.scale_by_learning_rate(learning_rate))
    )
