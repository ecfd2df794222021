"""Gradient-difference optimizers for JAX, as optax gradient transformations."""

from diffgrad_optax import friction
from diffgrad_optax._diffgrad import diffgrad, diffgradw, scale_by_diffgrad
from diffgrad_optax._with_friction import (
    FrictionState,
    friction_coefficients,
    with_friction,
)

__version__ = '0.1.0'

__all__ = (
    'FrictionState',
    'diffgrad',
    'diffgradw',
    'friction',
    'friction_coefficients',
    'scale_by_diffgrad',
    'with_friction',
)
