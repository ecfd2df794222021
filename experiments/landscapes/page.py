"""One HTML file that plays the runs, and needs nothing but itself."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.landscapes import packed
from experiments.landscapes.contours import heights
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import CONTROLS
from experiments.landscapes.search import RATES, Runs, starts

TEMPLATE = Path(__file__).parent / 'template'
SCRIPTS = ('data.js', 'draw.js', 'page.js')  # become one module
GRID = 128  # points a side that the shading is made from
FRAMES = 41  # steps of each run that are kept
FIRST = ('adam', 'adam-half', 'diffgrad')  # what the page opens with


def render(data: dict[str, Any]) -> str:
    """Makes the page from its description."""
    script = '\n'.join(read(name) for name in SCRIPTS)
    parts = {
        'policy': "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src '{digest(script)}'",
        'style': read('page.css'),
        'starts': data['starts'],
        'steps': data['steps'][-1],
        'frames': len(data['steps']),
        'rates': len(data['rates']),
        'lowest': f'{data["rates"][0]:g}',
        'highest': f'{data["rates"][-1]:g}',
        'data': json.dumps(data, separators=(',', ':')),
        'script': script,
    }
    page = read('page.html')
    for name, part in parts.items():
        page = page.replace('{{' + name + '}}', str(part))
    return page


def read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding='utf-8')


def digest(script: str) -> str:
    """What a content security policy knows a script by."""
    value = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f'sha256-{value}'


def describe(
    record: dict[str, Any], runs: dict[str, dict[str, Runs]]
) -> dict[str, Any]:
    """Everything that the scripts read.

    Args:
      record: of the search.
      runs: of each function and optimizer, with the paths that are shown.
    """
    optimizers = list(next(iter(runs.values())))
    shown = next(iter(next(iter(runs.values())).values())).losses.shape[1]
    frames = packed.frames(record['steps'], FRAMES)
    return {
        'optimizers': optimizers,
        'halved': list(CONTROLS),
        'first': [name for name in FIRST if name in optimizers] or optimizers[:1],
        'rates': RATES,
        'steps': frames,
        'starts': shown,
        'grid': GRID,
        'box': packed.BOX,
        'decade': packed.DECADE,
        'least': packed.LEAST,
        'diverged': packed.DIVERGED,
        'functions': {
            name: {
                'title': FUNCTIONS[name].title,
                'minima': in_box(name, np.array(FUNCTIONS[name].minima)),
                'starts': in_box(
                    name, starts(FUNCTIONS[name], record['starts'], shown)
                ),
                'tuned': [
                    RATES.index(record['functions'][name][optimizer]['rate'])
                    for optimizer in optimizers
                ],
                'heights': packed.pack(heights(FUNCTIONS[name], GRID) * packed.DECADE),
                'paths': packed.pack_paths(
                    FUNCTIONS[name],
                    np.stack([run.positions[:, :, frames] for run in of.values()]),
                    np.stack([run.losses[:, :, frames] for run in of.values()]),
                ),
            }
            for name, of in runs.items()
        },
    }


def in_box(name: str, points: np.ndarray) -> list[list[float]]:
    """Points as parts of the function's box."""
    low, high = np.array(FUNCTIONS[name].low), np.array(FUNCTIONS[name].high)
    return np.round((points - low) / (high - low), 5).tolist()
