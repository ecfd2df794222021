"""What optimizers are put together from: bases, modifiers, and names for both."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax import (
    correct_by_difference,
    gradient_dropout,
    learning_rate_dropout,
    scale_by_adadiff,
    scale_by_gains,
    swats,
)
from experiments.lab.cli import MOST, UserError

Chainable: TypeAlias = optax.GradientTransformation


class Base(NamedTuple):
    """What gives the direction of a step."""

    make: Callable[..., Chainable]
    takes: tuple[str, ...] = ()  # the modifiers that are arguments of `make`
    refuses: tuple[str, ...] = ()  # those that contradict it
    learning_rate: float = 1e-3
    sets_rate: bool = False  # whether `make` takes the learning rate itself


def sgd(momentum: float = 0.0, nesterov: bool = False) -> Chainable:
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def amsgrad() -> Chainable:
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
    )


def mars() -> Chainable:
    return optax.chain(correct_by_difference(), optax.scale_by_adam(0.95, 0.99))


rms = functools.partial(optax.scale_by_rms, eps=1e-8, eps_in_sqrt=False)

BASES = {
    'sgd': Base(sgd, takes=('momentum', 'nesterov')),
    # PyTorch starts the sum at 0 and adds ε = 1e-10 outside the root; optax adds
    # it inside, where 0 is the nearest to that.
    'adagrad': Base(functools.partial(optax.scale_by_rss, 0.0, eps=0.0)),
    # At 1e-3 it could not have learnt: PyTorch's default rate is 1.
    'adadelta': Base(
        functools.partial(optax.scale_by_adadelta, rho=0.9, eps=1e-6), learning_rate=1.0
    ),
    'rmsprop': Base(functools.partial(rms, decay=0.99)),
    'rmsprop-corrected': Base(functools.partial(rms, decay=0.9, bias_correction=True)),
    'amsgrad': Base(amsgrad),
    'adam': Base(optax.scale_by_adam, takes=('nesterov',)),
    'adabelief': Base(optax.scale_by_belief, takes=('nesterov',)),
    'radam': Base(optax.scale_by_radam, takes=('nesterov',)),
    'lion': Base(optax.scale_by_lion, learning_rate=1e-4),
    'adadiff': Base(scale_by_adadiff, takes=('amsgrad', 'eps_root')),
    'mars': Base(mars, refuses=('correction',)),
    'swats': Base(swats, refuses=('decay',), sets_rate=True),
}


class Allowed(NamedTuple):
    """Which numbers a modifier takes."""

    words: str
    holds: Callable[[Any], bool]


NOT_NEGATIVE = Allowed('finite and not negative', lambda x: 0 <= x < math.inf)
BELOW_ONE = Allowed('from 0 to less than 1', lambda x: 0 <= x < 1)
PROBABILITY = Allowed('from 0 to 1', lambda x: 0 <= x <= 1)
POSITIVE = Allowed(f'at least 1 and at most {MOST}', lambda x: 1 <= x <= MOST)


FACTORS = Allowed(
    'numbers that are finite and not negative, joined by commas',
    lambda text: all(NOT_NEGATIVE.holds(factor) for factor in factors(text)),
)


def factors(text: str) -> tuple[float, ...]:
    """The numbers that commas join in `text`; NaN for what is none."""
    try:
        return tuple(float(part) for part in text.split(','))
    except ValueError:
        return (math.nan,)


def unused(value: Any, key: int) -> Chainable:
    raise NotImplementedError('this modifier is no link of a chain')


class Modifier(NamedTuple):
    """What a modifier does, and its value where none is given."""

    help: str
    default: float | int | str | None = None  # None: it takes no value
    allowed: Allowed = NOT_NEGATIVE
    make: Callable[[Any, int], Chainable] = unused  # of value and key


def decay(value: float, key: int) -> Chainable:
    return optax.add_decayed_weights(value)


def frozen(value: str, key: int) -> Chainable:
    """Constant friction: a factor for all arrays, or one for each in their order."""
    given = factors(value)

    def init(params: Any) -> optax.EmptyState:
        count = len(jax.tree.leaves(params))
        if len(given) not in (1, count):
            raise UserError(
                f'frozen has {len(given)} numbers for {count} arrays: give one, or one '
                'for each'
            )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(updates)
        of_each = given if len(given) > 1 else given * len(leaves)
        scaled = (factor * leaf for factor, leaf in zip(of_each, leaves, strict=True))
        tree = jax.tree.structure(updates)
        return jax.tree.unflatten(tree, scaled), state

    return optax.GradientTransformation(init, update)


# Each group in the order in which it acts on a gradient.
BEFORE = {
    'loss_scale': Modifier(
        'the gradient of VALUE times the loss',
        100.0,
        make=lambda value, key: optax.scale(value),
    ),
    'l2': Modifier('coupled weight decay', 1e-4, make=decay),
    'noise': Modifier(
        'Gaussian gradient noise of variance VALUE/t^0.55',
        0.3,
        make=lambda value, key: optax.add_noise(value, 0.55, key),
    ),
    'grad_dropout': Modifier(
        'keeps this part of the gradient', 0.9, PROBABILITY, gradient_dropout
    ),
    'correction': Modifier(
        "MARS's, with this γ",
        0.025,
        make=lambda value, key: correct_by_difference(value, b1=0.9),
    ),
    'gains': Modifier(
        'local gains, with this β',
        0.05,
        BELOW_ONE,
        lambda value, key: scale_by_gains(value),
    ),
}
ARGUMENTS = {
    'momentum': Modifier('of sgd', 0.9, BELOW_ONE),
    'nesterov': Modifier('momentum that looks ahead'),
    'amsgrad': Modifier('the largest second moment so far'),
    'eps_root': Modifier('of adadiff, added to the second moment at every step', 1e-16),
}
FRICTION = {
    'friction': Modifier('a coefficient around the base', 'dfc'),
    'observed': Modifier("keeps how friction's coefficients are distributed"),
}
CONSTANT = {
    'frozen': Modifier(
        'constant friction, one number or one for each array, joined by commas',
        '0.5',
        FACTORS,
        frozen,
    ),
}
DECOUPLED = {'decay': Modifier('decoupled weight decay', 1e-2, make=decay)}
AFTER = {
    'half': Modifier(
        'half of each step: the control', make=lambda value, key: optax.scale(0.5)
    ),
    'lr_dropout': Modifier(
        'moves this part of the weights', 0.5, PROBABILITY, learning_rate_dropout
    ),
}
AROUND = {
    'quantized': Modifier(
        'state in 8 bits for arrays of VALUE elements and more', 4096, POSITIVE
    ),
    'lookahead': Modifier('slow weights, moved every VALUE steps', 5, POSITIVE),
}
MODIFIERS = BEFORE | ARGUMENTS | FRICTION | CONSTANT | DECOUPLED | AFTER | AROUND
RANDOM = {'noise', 'grad_dropout', 'lr_dropout'}

# Other names of compositions.
NAMES = {
    'sgdm': 'sgd+momentum',
    'nag': 'sgd+momentum+nesterov',
    'sgdw': 'sgd+momentum+decay',
    'nadam': 'adam+nesterov',
    'adam-half': 'adam+half',
    'adamw': 'adam+decay',
    'radamw': 'radam+decay',
    'diffgrad': 'adam+friction',
    'diffgradw': 'adam+friction+decay',
    'diffrgrad': 'radam+friction',
    **{f'diffgrad{i}': f'adam+friction=dfc{i}' for i in range(1, 6)},
    # The 18 of the study.
    'study-sgd': 'sgd',
    'study-momentum': 'sgd+momentum=0.99',
    'study-nesterov': 'sgd+momentum=0.99+nesterov',
    'study-sgdw': 'sgd+momentum=0.99+decay=1e-6',
    'study-momentum-lr_dropout': 'sgd+momentum=0.99+lr_dropout',
    'study-rmsprop': 'rmsprop-corrected',
    'study-adam': 'adam',
    'study-adam-l2': 'adam+l2',
    'study-adamw': 'adam+decay=1e-4',
    'study-adam-lr_dropout': 'adam+lr_dropout',
    'study-radam': 'radam',
    'study-radamw': 'radam+decay=1e-4',
    'study-radam-lr_dropout': 'radam+lr_dropout',
    'study-nadam': 'adam+nesterov',
    'study-lookahead-momentum': 'sgd+momentum=0.99+lookahead',
    'study-lookahead-adam': 'adam+lookahead',
    'study-adam-noise': 'adam+noise',
    'study-adam-grad_dropout': 'adam+grad_dropout',
}
