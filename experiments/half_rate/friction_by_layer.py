"""What is kept of observed friction: each array's mean, and each layer's bins."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.lab.friction_histogram import rounded


def compact(friction: Mapping[str, Any], layers: bool) -> dict[str, Any]:
    """What a line of results keeps of an epoch's friction, from `read`.

    Args:
      friction: of each array.
      layers: whether to keep, for each layer, its mean and its bins.

    Returns:
      The mean of ξ − ½ over all elements, those of each array, and if wanted `layers`.
    """
    sizes = np.array(friction['sizes'])
    excess = np.array(friction['excess'])
    (mean,) = rounded([np.average(excess, weights=sizes)])
    kept = {'mean': mean, 'excess': friction['excess']}
    if not layers:
        return kept
    names = [layer_of(name) for name in friction['arrays']]
    kept['layers'] = {}
    for layer in dict.fromkeys(names):
        inside = np.array([name == layer for name in names])
        weights = sizes[inside]
        (mean,) = rounded([np.average(excess[inside], weights=weights)])
        bins = np.average(np.array(friction['bins'])[inside], axis=0, weights=weights)
        kept['layers'][layer] = {
            'size': int(weights.sum()),
            'mean': mean,
            'bins': [round(float(part), 5) for part in bins],
        }
    return kept


def layer_of(name: str) -> str:
    """The layer of the array `name`, and whether it is weights or vectors.

    That of `blocks/3/norm/scale` is `blocks 3 vectors`.
    """
    first, *rest = name.split('/')
    number = f' {rest[0]}' if rest[0].isdecimal() else ''
    kind = 'weights' if rest[-1] in ('kernel', 'embedding') else 'vectors'
    return f'{first}{number} {kind}'
