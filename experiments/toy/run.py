"""The diffGrad paper's toy functions, with every variant and the control.

python -m experiments.toy.run

Each optimizer starts at -1 and takes 300 steps in float64. Prints where they end, and
writes every position (paths.json) and the paper's three panels for each function.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax import adadiff, diffgrad, diffrgrad
from diffgrad_optax.friction import COEFFICIENTS
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.output_files import check_replaceable, write_atomically
from experiments.lab.tables import markdown
from experiments.toy.functions import FUNCTIONS, START, Function
from experiments.toy.picture import draw_paths

BETAS: dict[str, Any] = {'b1': 0.95, 'b2': 0.999}


def make_optimizers(rate: float) -> dict[str, optax.GradientTransformation]:
    """What is compared: Adam, its control, and what looks at the previous gradient."""
    return {
        'adam': optax.adam(rate, **BETAS),
        'adam-half': optax.adam(rate / 2, **BETAS),
        'diffgrad': diffgrad(rate, **BETAS),
        **{
            f'diffgrad-{name}': diffgrad(rate, **BETAS, friction=name)
            for name in COEFFICIENTS
            if name != 'dfc'
        },
        'diffrgrad': diffrgrad(rate, **BETAS),
        'adadiff': adadiff(rate, **BETAS),
    }


@dataclass(frozen=True)
class Settings:
    """Everything that the comparison is told."""

    learning_rate: float = option(0.1, "the paper's is 0.1")
    steps: int = option(300, "the paper's are 300")
    optimizers: tuple[str, ...] = option(
        tuple(make_optimizers(1.0)), 'which to compare', make_optimizers(1.0)
    )
    out_dir: Path = option(Path('runs/toy'), 'where the results are written')


def path(
    function: Function, optimizer: optax.GradientTransformation, steps: int
) -> np.ndarray:
    """Every position from START on: steps + 1 numbers, float64."""

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        x, state = carry
        updates, state = optimizer.update(jax.grad(function.value)(x), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    @jax.jit
    def walk(start: jax.Array) -> jax.Array:
        _, positions = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
        return jnp.concatenate([start[None], positions])

    with jax.enable_x64(True):
        return np.asarray(walk(jnp.float64(START)))


def check(settings: Settings) -> None:
    cli.at_least(settings, steps=1)
    if not 0 < settings.learning_rate < np.inf:
        raise UserError(
            f'--learning-rate {settings.learning_rate} must be positive and finite'
        )


def compare(settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """The paths of every optimizer on every function."""
    chosen = make_optimizers(settings.learning_rate)
    return {
        title: {
            name: path(function, chosen[name], settings.steps)
            for name in settings.optimizers
        }
        for title, function in FUNCTIONS.items()
    }


def in_json(path: np.ndarray) -> list[float | None]:
    """The positions, null from where they are no finite numbers."""
    return [x if np.isfinite(x) else None for x in path.tolist()]


def table(paths: dict[str, dict[str, np.ndarray]]) -> str:
    """Where every optimizer ends, as a table in Markdown."""
    rows = [
        [name, *(f'{of[name][-1]:.3f}' for of in paths.values())]
        for name in next(iter(paths.values()))
    ]
    return markdown(['optimizer', *paths], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    check(settings)
    settings.out_dir.mkdir(parents=True, exist_ok=True)
    check_replaceable(
        settings.out_dir / 'paths.json',
        lambda record: [
            record['learning_rate'],
            record['steps'],
            [list(of) for of in record['positions'].values()],
        ],
        [
            settings.learning_rate,
            settings.steps,
            [list(dict.fromkeys(settings.optimizers))] * len(FUNCTIONS),
        ],
        'paths.png',
    )
    paths = compare(settings)
    print(table(paths))
    numbers = {
        title: {name: in_json(path) for name, path in of.items()}
        for title, of in paths.items()
    }
    record = {
        'learning_rate': settings.learning_rate,
        'steps': settings.steps,
        **BETAS,
        'positions': numbers,
    }
    write_atomically(settings.out_dir / 'paths.json', json.dumps(record) + '\n')
    draw_paths(settings.out_dir / 'paths.png', paths)
    print(f'everything is in {settings.out_dir}')


if __name__ == '__main__':
    cli.run(main)
