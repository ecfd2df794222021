"""What is compared: every optimizer of the package, and what each is made from.

Each is a function of the nominal learning rate and of a key for its random numbers,
both traceable, so that one compilation runs all rates and starts.
"""

from collections.abc import Callable

import jax
import optax

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffgradw,
    diffrgrad,
    gradient_dropout,
    learning_rate_dropout,
    mars,
    quantize_state,
    scale_by_gains,
    swats,
    with_friction,
)
from diffgrad_optax.friction import COEFFICIENTS

Make = Callable[[jax.Array, jax.Array], optax.GradientTransformation]


def with_coefficient(friction: str) -> Make:
    return lambda rate, key: diffgrad(rate, friction=friction)


OPTIMIZERS: dict[str, Make] = {
    'sgd': lambda rate, key: optax.sgd(rate),
    'sgd+gains': lambda rate, key: optax.chain(scale_by_gains(), optax.sgd(rate)),
    'momentum': lambda rate, key: optax.sgd(rate, momentum=0.9),
    'momentum+friction': lambda rate, key: with_friction(optax.sgd(rate, momentum=0.9)),
    'swats': lambda rate, key: swats(rate),
    'adam': lambda rate, key: optax.adam(rate),
    'adam-half': lambda rate, key: optax.adam(rate / 2),
    'diffgrad': lambda rate, key: diffgrad(rate),
    **{
        f'diffgrad-{name}': with_coefficient(name)
        for name in COEFFICIENTS
        if name != 'dfc'
    },
    'diffgradw': lambda rate, key: diffgradw(rate),
    'diffgrad+quantized': lambda rate, key: quantize_state(
        diffgrad(rate), block_size=2, min_size=2
    ),
    'radam': lambda rate, key: optax.radam(rate),
    'diffrgrad': lambda rate, key: diffrgrad(rate),
    'adadiff': lambda rate, key: adadiff(rate),
    'mars': lambda rate, key: mars(rate),
    'mars-uncorrected': lambda rate, key: mars(rate, gamma=0.0),
    'adam+grad_dropout': lambda rate, key: optax.chain(
        gradient_dropout(0.9, key), optax.adam(rate)
    ),
    'adam+lr_dropout': lambda rate, key: optax.chain(
        optax.adam(rate), learning_rate_dropout(0.5, key)
    ),
}

# An optimizer that takes no rate of its own from the search, and whose it takes.
CONTROLS = {'adam-half': 'diffgrad'}

# What each is to be held against.
PAIRS = (
    ('diffgrad', 'adam-half'),
    ('diffgrad', 'adam'),
    ('momentum+friction', 'momentum'),
    ('diffrgrad', 'radam'),
    ('mars', 'mars-uncorrected'),
)
