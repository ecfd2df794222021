"""Paths and heights in few bytes, for a page that has to hold all of them.

Numbers become 16-bit integers, neighbours their differences; the low bytes of all come
before the high ones, which are nearly all 0 or 255, and zlib does the rest.
`template/data.js` undoes this.
"""

import base64
import zlib

import numpy as np

from experiments.landscapes.functions import Function

BOX = 4096  # parts of a side of the function's box
DECADE = 1000  # parts of a factor of 10 in the loss
LEAST = -16  # the smallest loss, as a power of 10; the largest is as far above 1
DIVERGED = 32767  # in place of a loss


def frames(steps: int, count: int) -> list[int]:
    """At most `count` steps from 0 to `steps`, closer together at the beginning."""
    parts = np.linspace(0, 1, count) ** 1.5
    return np.unique(np.round(steps * parts).astype(int)).tolist()


def pack_paths(function: Function, positions: np.ndarray, losses: np.ndarray) -> str:
    """Packs [..., frame, 2] positions and [..., frame] losses as x, y, loss of each.

    A position outside the picture is moved to half a side beyond its edge at most.
    """
    low, high = np.array(function.low), np.array(function.high)
    # From where it is no number, a run is not drawn.
    finite = np.isfinite(losses)
    inside = np.where(finite[..., None], (positions - low) / (high - low), 0.5)
    places = np.clip(inside, -0.5, 1.5) * BOX
    limits = 10.0**LEAST, 10.0**-LEAST
    exponents = np.log10(np.clip(np.where(finite, losses, 1.0), *limits)) * DECADE
    codes = np.stack([places[..., 0], places[..., 1], exponents], axis=-2)
    codes[..., 2, :] = np.where(finite, codes[..., 2, :], DIVERGED)
    return pack(codes)


def pack(codes: np.ndarray) -> str:
    """Packs [..., row] numbers between -32768 and 32767."""
    whole = np.round(codes).astype(np.int16)
    differences = np.diff(whole, axis=-1, prepend=np.int16(0)).astype('<i2')
    low, high = differences.reshape(-1, 1).view(np.uint8).T
    return base64.b64encode(zlib.compress(low.tobytes() + high.tobytes(), 9)).decode()
