"""Gradient-difference optimizers for JAX, as optax gradient transformations."""

from diffgrad_optax import friction, schedules
from diffgrad_optax._adadiff import AdadiffState, adadiff, scale_by_adadiff
from diffgrad_optax._diffgrad import diffgrad, diffgradw, scale_by_diffgrad
from diffgrad_optax._diffrgrad import diffrgrad
from diffgrad_optax._dropout import (
    DropoutState,
    gradient_dropout,
    learning_rate_dropout,
)
from diffgrad_optax._gains import GainsState, scale_by_gains
from diffgrad_optax._mars import (
    CorrectByDifferenceState,
    correct_by_difference,
    mars,
)
from diffgrad_optax._quantize import QuantizedState, dequantize_state, quantize_state
from diffgrad_optax._swats import SwatsState, swats
from diffgrad_optax._with_friction import (
    FrictionState,
    friction_coefficients,
    with_friction,
)

__version__ = '0.1.0'

__all__ = (
    'AdadiffState',
    'CorrectByDifferenceState',
    'DropoutState',
    'FrictionState',
    'GainsState',
    'QuantizedState',
    'SwatsState',
    'adadiff',
    'correct_by_difference',
    'dequantize_state',
    'diffgrad',
    'diffgradw',
    'diffrgrad',
    'friction',
    'friction_coefficients',
    'gradient_dropout',
    'learning_rate_dropout',
    'mars',
    'quantize_state',
    'scale_by_adadiff',
    'scale_by_diffgrad',
    'scale_by_gains',
    'schedules',
    'swats',
    'with_friction',
)
