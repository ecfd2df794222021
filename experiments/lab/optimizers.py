"""Optimizers by name: a base, and modifiers joined to it by `+`.

    adamw    lion+friction    sgd+momentum=0.99    radamw+nesterov+noise+lookahead

Each modifier has its own place in the chain, so their order does not matter. Many
names are compositions themselves (`adamw` is `adam+decay`), among them the optimizers
of the diffGrad paper's Table I, at PyTorch's defaults, and the 18 of the
mix-and-match study. What there is:

    python -m experiments.lab.optimizers
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import optax

from diffgrad_optax import quantize_state, with_friction
from diffgrad_optax.friction import COEFFICIENTS
from experiments.lab import cli
from experiments.lab.cli import MOST, UserError
from experiments.lab.friction_histogram import observed
from experiments.lab.optimizer_parts import (
    AFTER,
    ARGUMENTS,
    BASES,
    BEFORE,
    CONSTANT,
    DECOUPLED,
    MODIFIERS,
    NAMES,
    RANDOM,
    Chainable,
    Modifier,
)
from experiments.lab.schedules import SCHEDULES, Length


class Composition(NamedTuple):
    """An optimizer's name, understood."""

    base: str
    modifiers: tuple[tuple[str, Any], ...]  # with their values

    @property
    def lookahead(self) -> bool:
        """Whether it moves `optax.LookaheadParams` and not plain parameters."""
        return 'lookahead' in dict(self.modifiers)


def compose(
    name: str, *, weight_decay: float | None = None, friction: str | None = None
) -> Composition:
    """Takes the name of an optimizer apart.

    Args:
      name: a base or one of NAMES, with modifiers joined by `+`, each with an `=`
        and a value or without.
      weight_decay: the value of `decay` if the name has it, else of `l2`.
      friction: the value of `friction`.

    Raises:
      UserError: if a part is unknown, given twice, or contradicts another, or a
        value is none.
    """
    base, *parts = expand(name)
    if base not in BASES:
        raise refusal(name, f'{base!r} is unknown')
    given: dict[str, Any] = {}
    for part in parts:
        modifier, equals, text = part.partition('=')
        if modifier not in MODIFIERS:
            raise refusal(name, f'{part!r} is unknown')
        if modifier in given:
            whole = '+'.join([base, *parts])
            raise refusal(name, f'{whole} has {modifier} twice, leave one out')
        given[modifier] = parsed(name, modifier, text) if equals else None
    if weight_decay is not None:
        modifier = 'decay' if 'decay' in given else 'l2'
        fill(given, modifier, weight_decay, f'--weight-decay {weight_decay}')
        check_value(modifier, weight_decay, '--weight-decay')
    if friction is not None:
        if 'friction' not in given:
            raise UserError(
                f'--friction {friction} goes with an --optimizer that has friction, '
                f'such as diffgrad or {name}+friction, not {name}'
            )
        fill(given, 'friction', friction, f'--friction {friction}')
    values = {
        modifier: MODIFIERS[modifier].default if value is None else value
        for modifier, value in given.items()
    }
    for modifier, value in values.items():
        check_value(modifier, value)
    check_fits(name, base, values)
    return Composition(base, tuple(values.items()))


def expand(name: str) -> list[str]:
    """The parts of `name`, with NAMES replaced by what they stand for."""
    first, *rest = name.split('+')
    return [*expand(NAMES[first]), *rest] if first in NAMES else [first, *rest]


def refusal(name: str, why: str) -> UserError:
    """An error that lists what exists."""
    return UserError(
        f'optimizer {name}: {why}. A base is one of {", ".join(BASES)}; names of '
        f'compositions are {", ".join(NAMES)}; to either add modifiers, as in '
        f'lion+friction or adam+l2=1e-4, from {", ".join(MODIFIERS)}'
    )


def parsed(name: str, modifier: str, text: str) -> Any:
    """The value of a modifier, of the type of its default."""
    default = MODIFIERS[modifier].default
    if default is None:
        raise refusal(name, f'{modifier} takes no value')
    try:
        return type(default)(text)
    except ValueError:
        kind = 'a whole number' if isinstance(default, int) else 'a number'
        raise UserError(
            f'optimizer {name}: {modifier} must be {kind}, such as '
            f'{modifier}={default}, not {text!r}'
        ) from None


def fill(given: dict[str, Any], modifier: str, value: Any, flag: str) -> None:
    if given.get(modifier) is not None:
        raise UserError(
            f'{flag} contradicts {modifier}={given[modifier]} in --optimizer: leave '
            'one out'
        )
    given[modifier] = value


def check_value(modifier: str, value: Any, name: str | None = None) -> None:
    """Refuses a value out of range, by the `name` that it was given under."""
    if modifier == 'friction' and value not in COEFFICIENTS:
        raise UserError(
            f'friction {value} is unknown: choose from {", ".join(COEFFICIENTS)}'
        )
    allowed = MODIFIERS[modifier].allowed
    if modifier != 'friction' and value is not None and not allowed.holds(value):
        raise UserError(f'{name or modifier} {value} must be {allowed.words}')


def check_fits(name: str, base: str, modifiers: dict[str, Any]) -> None:
    """Refuses modifiers that the base or another one leaves no place for."""
    takes, refuses = BASES[base].takes, BASES[base].refuses
    for modifier in modifiers:
        if (modifier in ARGUMENTS and modifier not in takes) or modifier in refuses:
            able = [
                other
                for other, b in BASES.items()
                if modifier not in b.refuses
                and (modifier in b.takes or modifier not in ARGUMENTS)
            ]
            raise refusal(
                name,
                f'{base} has no place for {modifier}, which goes with '
                f'{", ".join(able)}',
            )
    if 'observed' in modifiers and 'friction' not in modifiers:
        raise refusal(name, 'observed needs a friction, such as diffgrad+observed')
    if 'observed' in modifiers and 'quantized' in modifiers:
        raise refusal(name, 'observed is not read from a quantized state')
    if base == 'sgd' and 'nesterov' in modifiers and not modifiers.get('momentum'):
        raise refusal(name, 'nesterov needs a momentum, sgd+momentum+nesterov')


def make_optimizer(
    composition: Composition,
    *,
    learning_rate: float | None,
    schedule: str,
    length: Length,
    seed: int,
) -> optax.GradientTransformation:
    """Makes the optimizer of `composition`.

    Args:
      composition: from `compose`.
      learning_rate: None is the base's own.
      schedule: a key of SCHEDULES, or `plateau`: then the state holds the rate, as
        the hyperparameter `learning_rate`.
      length: of the run.
      seed: of what is random in it.

    Raises:
      UserError: if the learning rate is out of its range, or the run has more steps
        than are counted.
    """
    if learning_rate is None:
        learning_rate = BASES[composition.base].learning_rate
    if not 0 <= learning_rate < math.inf:
        raise UserError(
            f'--learning-rate {learning_rate} must be finite and not negative'
        )
    if length.epochs * length.steps > MOST:
        raise UserError(
            f'--epochs {length.epochs} of {length.steps} steps must be at most '
            f'{MOST // length.steps}'
        )
    if RANDOM.isdisjoint(dict(composition.modifiers)):
        seed = 0  # one optimizer, and one compilation, for all seeds
    return _make(composition, learning_rate, schedule, length, seed)


# One object for equal arguments, so that runs of several seeds share a compilation.
@functools.cache
def _make(
    composition: Composition,
    learning_rate: float,
    schedule: str,
    length: Length,
    seed: int,
) -> optax.GradientTransformation:
    base, modifiers = BASES[composition.base], dict(composition.modifiers)
    # Another number than the seed, from which the run derives keys of its own; no key,
    # because optax.add_noise would put that into the state, to be donated with it.
    (key,) = np.random.SeedSequence([seed, 0x6F7074]).generate_state(1).tolist()

    def present(group: dict[str, Modifier]) -> list[Chainable]:
        return [
            modifier.make(modifiers[name], key)
            for name, modifier in group.items()
            if name in modifiers
        ]

    def make(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        arguments = {
            name: MODIFIERS[name].default is None or modifiers[name]
            for name in base.takes
            if name in modifiers
        }
        if base.sets_rate:
            direction = base.make(learning_rate, **arguments)
            rate = []
        else:
            direction = base.make(**arguments)
            rate = [optax.scale_by_learning_rate(learning_rate)]
        if 'friction' in modifiers:
            direction = with_friction(direction, modifiers['friction'])
        if 'observed' in modifiers:
            direction = observed(direction, modifiers['friction'])
        optimizer = optax.chain(
            *present(BEFORE),
            direction,
            *present(CONSTANT),
            *present(DECOUPLED),
            *rate,
            *present(AFTER),
        )
        if 'quantized' in modifiers:
            optimizer = quantize_state(optimizer, min_size=modifiers['quantized'])
        return optimizer

    if schedule == 'plateau':
        optimizer = optax.inject_hyperparams(make)(learning_rate=learning_rate)
    else:
        optimizer = make(SCHEDULES[schedule](learning_rate, length))
    if 'lookahead' in modifiers:
        return optax.lookahead(optimizer, modifiers['lookahead'], slow_step_size=0.5)
    return optimizer


def fast_weights(params: Any) -> Any:
    """The weights that gradients are taken at."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def slow_weights(params: Any) -> Any:
    """The weights that are the result."""
    return params.slow if isinstance(params, optax.LookaheadParams) else params


def main() -> None:
    """Prints every base, modifier and name."""
    print('bases, with their learning rates and the modifiers that they alone take:')
    for name, base in BASES.items():
        print(f'  {name:20s}{base.learning_rate:<8g}{" ".join(base.takes)}'.rstrip())
    print('\nmodifiers, with their values where none is given:')
    for name, modifier in MODIFIERS.items():
        default = '' if modifier.default is None else modifier.default
        print(f'  {name:20s}{default:<8}{modifier.help}')
    print('\nnames of compositions:')
    for name, composition in NAMES.items():
        print(f'  {name:28s}{composition}')


if __name__ == '__main__':
    cli.run(main)
