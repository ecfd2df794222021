"""How high a function is, for the eye."""

import jax
import numpy as np

from experiments.landscapes.functions import Function


def heights(function: Function, size: int) -> np.ndarray:
    """log₁₀(value + 0.1) on a grid of `size` points a side, [y, x], lowest y first.

    Logarithms, because Beale's function has four decades more in its corners than near
    its minimum; with a tenth, so that they do not end in a hole there.
    """
    x, y = (
        np.linspace(low, high, size)
        for low, high in zip(function.low, function.high, strict=True)
    )
    with jax.enable_x64(True):
        points = np.stack(np.meshgrid(x, y), axis=-1)
        return np.log10(np.asarray(function.value(points)) + 0.1)
