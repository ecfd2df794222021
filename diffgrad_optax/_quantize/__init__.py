"""Optimizer state in 8 bits, around any optax transformation.

transformation: `quantize_state` itself.
state: what is stored, and its float32 form.
fields: the names of fields that are never negative, or stay exact.
plan: which arrays have codes, in which blocks and of which kind.
codes: numbers to codes and back.
dither: the thresholds by which codes are rounded.
step: one step of the inner transformation, from codes to codes.
"""

from diffgrad_optax._quantize.state import QuantizedState, dequantize_state
from diffgrad_optax._quantize.transformation import quantize_state

__all__ = ('QuantizedState', 'dequantize_state', 'quantize_state')
