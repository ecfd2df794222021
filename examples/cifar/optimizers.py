"""The optimizers of the paper's Table I by name, at PyTorch's defaults, and controls.

Each is a composition of optax pieces or one of this package's. `weight_decay` is
coupled (added to the gradient, as PyTorch's optimizers do) but for the two whose
names end in w.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax import diffgrad, diffgradw
from diffgrad_optax.friction import __all__ as frictions
from examples.common.cli import UserError


class Recipe(NamedTuple):
    """How to make an optimizer by name."""

    make: Callable[..., optax.GradientTransformation]  # from a learning rate
    learning_rate: float = 1e-3
    decoupled: float | None = None  # its weight decay by default, if it is decoupled
    takes_friction: bool = False


def amsgrad(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """AMSGrad as PyTorch has it: the maximum of v_t is taken before bias correction.

    optax takes it after, which remembers the first steps' √v̂ for good. With ε
    inside the maximum's correction, as here, it is 1e-8/√(1 - β2^t).
    """
    b2 = 0.999

    def bias_correction(count: jax.Array) -> jax.Array:
        return jnp.sqrt(1.0 - b2 ** (count + 1.0))

    return optax.chain(
        optax.scale_by_amsgrad(b2=b2, bias_correction_nu=False),
        optax.scale_by_schedule(bias_correction),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam_half(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The control of every comparison: what diffGrad is where ξ is ½."""
    return optax.chain(optax.adam(learning_rate), optax.scale(0.5))


OPTIMIZERS = {
    'sgdm': Recipe(functools.partial(optax.sgd, momentum=0.9)),
    # PyTorch starts the sum at 0 and adds ε = 1e-10 outside the root; optax adds
    # it inside, where 0 is the nearest to that.
    'adagrad': Recipe(
        functools.partial(optax.adagrad, initial_accumulator_value=0.0, eps=0.0)
    ),
    # At 1e-3 it could not have learnt: PyTorch's default rate is 1.
    'adadelta': Recipe(
        functools.partial(optax.adadelta, rho=0.9, eps=1e-6), learning_rate=1.0
    ),
    'rmsprop': Recipe(
        functools.partial(optax.rmsprop, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    ),
    'amsgrad': Recipe(amsgrad),
    'adam': Recipe(optax.adam),
    'adam-half': Recipe(adam_half),
    'adamw': Recipe(optax.adamw, decoupled=1e-2),
    'diffgrad': Recipe(diffgrad, takes_friction=True),
    'diffgradw': Recipe(diffgradw, decoupled=1e-2, takes_friction=True),
    **{
        f'diffgrad{i}': Recipe(functools.partial(diffgrad, friction=f'dfc{i}'))
        for i in range(1, 6)
    },
}


def check_optimizer(
    name: str,
    *,
    learning_rate: float | None,
    weight_decay: float | None,
    friction: str | None,
) -> None:
    """Refuses what `make_optimizer` cannot make.

    Raises:
      UserError: if `name` or `friction` is unknown, a number is out of range, or
        `friction` is given for an optimizer that has none to choose.
    """
    if name not in OPTIMIZERS:
        raise UserError(
            f'optimizer {name} is unknown: choose from {", ".join(OPTIMIZERS)}'
        )
    for flag, value in (
        ('--learning-rate', learning_rate),
        ('--weight-decay', weight_decay),
    ):
        if value is not None and not 0 <= value < float('inf'):
            raise UserError(f'{flag} {value} must be finite and not negative')
    if friction is None:
        return
    if not OPTIMIZERS[name].takes_friction:
        takers = [name for name, other in OPTIMIZERS.items() if other.takes_friction]
        raise UserError(
            f'--friction goes with --optimizer {" or ".join(takers)}, not {name}'
        )
    if friction not in frictions:
        raise UserError(
            f'--friction {friction} is unknown: choose from {", ".join(frictions)}'
        )


# One object for equal arguments, so that runs of several seeds share a compilation.
@functools.cache
def make_optimizer(
    name: str,
    *,
    learning_rate: float | None,
    weight_decay: float | None,
    friction: str | None,
    drop_at_step: int,
) -> optax.GradientTransformation:
    """Makes the optimizer `name`, whose learning rate is divided by 10 once.

    Args:
      name: a key of OPTIMIZERS.
      learning_rate: None is the recipe's own.
      weight_decay: None is the recipe's own, 0 for a coupled one.
      friction: a name from `diffgrad_optax.friction`, or None.
      drop_at_step: the update from which on the learning rate is a tenth.

    Raises:
      UserError: as `check_optimizer`.
    """
    check_optimizer(
        name,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        friction=friction,
    )
    recipe = OPTIMIZERS[name]
    arguments: dict[str, Any] = {} if friction is None else {'friction': friction}
    if recipe.decoupled is not None:
        arguments['weight_decay'] = (
            recipe.decoupled if weight_decay is None else weight_decay
        )
    schedule = optax.piecewise_constant_schedule(
        recipe.learning_rate if learning_rate is None else learning_rate,
        {drop_at_step: 0.1},
    )
    optimizer = recipe.make(schedule, **arguments)
    if recipe.decoupled is None and weight_decay:
        optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
    return optimizer
