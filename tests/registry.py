"""Every public transformation, and the few differences that a contract allows them.

A transformation joins the contract (`test_contract.py`, and optax's own in
`test_optax_contract.py`) by its line here; one without a line fails a test.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import optax
import pytest

from diffgrad_optax import (
    adadiff,
    correct_by_difference,
    diffgrad,
    diffgradw,
    diffrgrad,
    gradient_dropout,
    learning_rate_dropout,
    mars,
    quantize_state,
    scale_by_adadiff,
    scale_by_diffgrad,
    scale_by_gains,
    swats,
    with_friction,
)


class Entry(NamedTuple):
    """How one transformation is made, and why the contract spares it something.

    Attributes:
      make: makes the transformation. If it takes a `learning_rate` it is an
        optimizer, and solves optax's toy problems with the one in `kwargs`.
      kwargs: what it is made with. Its floats are traceable.
      public: the package's function that this is a case of; None if `make` is it.
      refuses_complex: why complex parameters are refused.
      stalls: why optax's toy problems are not solved.
      rounds: why real parameters move otherwise than complex and float64 ones.
      like: the entry that takes the same ways through the code: `make test` runs that
        one, `make test-all` this one too.
    """

    make: Callable[..., optax.GradientTransformation]
    kwargs: Mapping[str, Any]
    public: Callable[..., optax.GradientTransformation] | None = None
    refuses_complex: str | None = None
    stalls: str | None = None
    rounds: str | None = None
    like: str | None = None


def friction_sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9
) -> optax.GradientTransformation:
    return with_friction(optax.sgd(learning_rate, momentum))


def friction_radam(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    return with_friction(optax.radam(learning_rate))


def quantized(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    # Blocks of three numbers, because the contract's arrays are so small.
    return quantize_state(inner, block_size=3, min_size=0)


def quantized_diffgrad(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    return quantized(diffgrad(learning_rate))


def quantized_adadiff(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    return quantized(adadiff(learning_rate, amsgrad=True))


def quantized_sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9
) -> optax.GradientTransformation:
    return quantized(optax.sgd(learning_rate, momentum))


EIGHT_BITS = 'their state has 8 bits'

REGISTRY = {
    'diffgrad': Entry(diffgrad, {'learning_rate': 1e-2}),
    # The friction with the longest steps, and one of those that look at all of an
    # array; the others take the same ways.
    'diffgrad-dfc2': Entry(
        diffgrad, {'learning_rate': 1e-3, 'friction': 'dfc2'}, like='diffgrad'
    ),
    'diffgrad-dfc3': Entry(
        diffgrad,
        {'learning_rate': 1e-2, 'friction': 'dfc3'},
        stalls='with a mean gradient of 9 the coefficient starts at σ(-9)',
        like='diffgrad',
    ),
    'diffgrad-nesterov-bfloat16': Entry(
        diffgrad,
        {
            'learning_rate': 1e-2,
            'nesterov': True,
            'mu_dtype': 'bfloat16',
            'prev_grad_dtype': 'bfloat16',
        },
        refuses_complex='there is no complex bfloat16',
    ),
    'diffgradw': Entry(diffgradw, {'learning_rate': 1e-2}, like='mars'),
    'scale_by_diffgrad': Entry(scale_by_diffgrad, {'b1': 0.8}, like='diffgrad'),
    # Inner transformations that return the caller's arrays, that return one array
    # as update and as state, and that branch on their count.
    'with_friction-identity': Entry(
        with_friction, {'inner': optax.identity()}, like='diffgrad'
    ),
    'with_friction-sgd': Entry(
        friction_sgd,
        {'learning_rate': 1e-3},
        with_friction,
        like='diffgrad',
    ),
    'with_friction-radam': Entry(
        friction_radam, {'learning_rate': 1e-2}, with_friction, like='diffgrad'
    ),
    'diffgrad-relative': Entry(
        diffgrad, {'learning_rate': 1e-2, 'friction': 'relative_dfc'}, like='diffgrad'
    ),
    'diffrgrad': Entry(diffrgrad, {'learning_rate': 1e-2}, like='diffgrad'),
    'adadiff': Entry(adadiff, {'learning_rate': 1e-2}, like='adadiff-amsgrad-bfloat16'),
    'adadiff-amsgrad-bfloat16': Entry(
        adadiff,
        {
            'learning_rate': 1e-2,
            'amsgrad': True,
            'mu_dtype': 'bfloat16',
            'prev_grad_dtype': 'bfloat16',
            'weight_decay': 1e-4,
        },
        refuses_complex='there is no complex bfloat16',
    ),
    'scale_by_adadiff': Entry(scale_by_adadiff, {'b1': 0.8}, like='adadiff'),
    'gradient_dropout': Entry(gradient_dropout, {'keep_prob': 0.9, 'key': 0}),
    'learning_rate_dropout': Entry(
        learning_rate_dropout, {'keep_prob': 0.5, 'key': 1}, like='gradient_dropout'
    ),
    'swats': Entry(swats, {'learning_rate': 1e-2}, like='swats-switching'),
    # So wide a tolerance switches at the second step.
    'swats-switching': Entry(swats, {'learning_rate': 1e-2, 'switch_tolerance': 1e3}),
    'scale_by_gains': Entry(
        scale_by_gains, {'beta': 0.1}, refuses_complex='its gradients have no sign'
    ),
    'correct_by_difference': Entry(correct_by_difference, {'gamma': 0.1}, like='mars'),
    'mars': Entry(mars, {'learning_rate': 1e-2}),
    'quantize_state-diffgrad': Entry(
        quantized_diffgrad, {'learning_rate': 1e-2}, quantize_state, rounds=EIGHT_BITS
    ),
    'quantize_state-adadiff': Entry(
        quantized_adadiff,
        {'learning_rate': 1e-2},
        quantize_state,
        rounds=EIGHT_BITS,
        like='quantize_state-diffgrad',
    ),
    'quantize_state-sgd': Entry(
        quantized_sgd,
        {'learning_rate': 1e-3},
        quantize_state,
        rounds=EIGHT_BITS,
        like='quantize_state-diffgrad',
    ),
}


def cases(names: Iterable[str] = REGISTRY) -> list[Any]:
    """Entries as parameters of a test, in the tier that each belongs to."""
    tiers = dict.fromkeys(('diffgrad', 'scale_by_gains'), pytest.mark.quick)
    tiers |= {name: pytest.mark.slow for name in REGISTRY if REGISTRY[name].like}
    return [pytest.param(name, marks=tiers.get(name, ())) for name in names]
