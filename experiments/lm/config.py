"""Everything that a run is told, and what of it cannot be."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx

from diffgrad_optax.friction import COEFFICIENTS
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.optimizer_parts import BASES, MODIFIERS, NAMES
from experiments.lm.lstm import AWD, LSTM, Regularisation
from experiments.lm.transformer import Transformer

# What a run may be told otherwise when it goes on.
CHANGED_ON_RESUME = (
    'checkpoint_every',
    'data_dir',
    'fsdp',
    'non_finite',
    'out_dir',
    'resume',
    'sample',
    'temperature',
)


@dataclass(frozen=True)
class Config:
    """Everything that a run is told."""

    data_dir: Path | None = option(
        None,
        'a folder with train.txt, valid.txt and test.txt; left out, the text is '
        "Python's own documentation",
    )
    tokens: Literal['bytes', 'words'] = option('bytes', 'what the text is made of')
    limit_train: int | None = option(
        None, 'use only the first N tokens of the training text'
    )
    model: Literal['transformer', 'lstm'] = option('transformer', 'the network')
    layers: int = option(2, 'how deep it is')
    width: int = option(128, 'features of the embedding and between layers')
    hidden: int | None = option(
        None,
        "of the transformer's feed-forward, or units of all LSTMs but the last; left "
        'out, 4 × width',
    )
    heads: int = option(4, "of the transformer's attention")
    dropout: float = option(
        0.0, "part of the transformer's branches that is zero in training"
    )
    awd: bool = option(False, "AWD-LSTM's dropouts and activation penalties, for lstm")
    precision: Literal['float32', 'bfloat16'] = option(
        'float32', 'of the computation; parameters are float32'
    )
    context: int = option(128, 'tokens in a window')
    batch_size: int = option(16, 'windows in a step, over all devices')
    epochs: int = option(6, 'passes over the training text')
    optimizer: str = option(
        'diffgrad',
        f'a base ({", ".join(BASES)}) or a name ({", ".join(NAMES)}), and modifiers '
        f'joined to it by + ({", ".join(MODIFIERS)}), each with =VALUE or without',
    )
    friction: str | None = option(
        None, f'of an optimizer that has it: {", ".join(COEFFICIENTS)}'
    )
    weight_decay: float | None = option(
        None, 'of an optimizer with decoupled decay, else coupled'
    )
    learning_rate: float | None = option(
        None, "the largest of the schedule; left out, the optimizer's"
    )
    schedule: Literal['cosine', 'drops', 'constant'] = option(
        'cosine',
        'of the learning rate: up over a twentieth of the steps and down to a tenth, '
        'a tenth from half of the epochs and a hundredth from 72.5%%, or always the '
        'same',
    )
    clip: float | None = option(
        None, 'gradients with a larger norm are made this long; left out, none are'
    )
    fsdp: int | None = option(
        None,
        'over how many devices parameters and state are split, by which the number of '
        'devices divides; left out, over all',
    )
    sample: int = option(0, 'how many tokens to write in the end')
    temperature: float = option(
        0.8, 'of the sample: below 1 prefers what is likely, 0 takes the likeliest'
    )
    seed: int = option(0, 'of the initialisation, the order, dropout and the sample')
    checkpoint_every: int = option(1, 'epochs from one checkpoint to the next')
    non_finite: Literal['stop', 'skip'] = option(
        'stop',
        'what to do at a step with an infinity or a NaN: stop the run, or leave '
        'everything as it was and take the next one',
    )
    out_dir: Path | None = option(
        None,
        'where everything is written; left out, a folder in runs named by the settings',
    )
    resume: bool = option(True, 'continue a run that is in the folder already')

    def settings(self) -> dict[str, Any]:
        """What decides the result, and so may not change when a run goes on."""
        settings = dataclasses.asdict(self)
        for name in CHANGED_ON_RESUME:
            del settings[name]
        return settings

    def folder(self) -> Path:
        """`out_dir`, or a folder for the main settings."""
        return self.out_dir or Path('runs') / (
            f'lm-{self.model}-{self.tokens}-{self.optimizer}'
            f'-batch{self.batch_size}-seed{self.seed}'
        )

    def network(self, vocabulary: int) -> 'Network':
        """The network, for so many different tokens."""
        kwargs: Any = {
            'vocabulary': vocabulary,
            'layers': self.layers,
            'width': self.width,
            'hidden': 4 * self.width if self.hidden is None else self.hidden,
            'dtype': jnp.dtype(self.precision),
        }
        if self.model == 'lstm':
            kwargs['regularisation'] = AWD if self.awd else Regularisation()
            return Network(LSTM, tuple(kwargs.items()))
        kwargs |= {'heads': self.heads, 'dropout': self.dropout}
        return Network(Transformer, tuple(kwargs.items()))


class Network(NamedTuple):
    """What makes a network; equal ones share their compilations."""

    kind: Callable[..., nnx.Module]
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes it from the keys of its initialisation."""
        return self.kind(**dict(self.arguments), rngs=rngs)


def check(config: Config) -> None:
    """Refuses numbers out of range, and what does not go together."""
    cli.at_least(
        config,
        batch_size=1,
        checkpoint_every=1,
        context=2,
        epochs=1,
        heads=1,
        hidden=1,
        layers=1,
        limit_train=1,
        sample=0,
        width=1,
    )
    if not 0 <= config.seed < 2**32:
        raise UserError(f'--seed {config.seed} must be in 0 … 4294967295')
    if not 0 <= config.temperature < math.inf:
        raise UserError(
            f'--temperature {config.temperature} must be finite and not negative'
        )
    if config.clip is not None and not 0 < config.clip < math.inf:
        raise UserError(f'--clip {config.clip} must be finite and more than 0')
    if not 0 <= config.dropout < 1:
        raise UserError(f'--dropout {config.dropout} must be from 0 to less than 1')
    if config.model == 'lstm' and config.dropout:
        raise UserError('--dropout goes with --model transformer: the LSTM has --awd')
    if config.model == 'transformer' and config.awd:
        raise UserError('--awd goes with --model lstm: the transformer has --dropout')
    if config.model == 'transformer' and config.width % (2 * config.heads):
        raise UserError(
            f'--width {config.width} does not divide by twice the --heads '
            f'{config.heads}: choose a multiple of {2 * config.heads}'
        )
