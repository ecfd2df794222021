"""What a run says of itself, to people and to files."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.lab.optimizers import slow_weights
from experiments.lm.config import Config
from experiments.lm.data import Text
from experiments.lm.training import TrainState


def heading(
    config: Config, text: Text, state: TrainState, mesh: Mesh, done: int
) -> Iterator[str]:
    """What a run starts with, a line each."""
    params = jax.tree.leaves(slow_weights(state.params))
    kept = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)
    )
    processes = f' of {count} processes' if (count := jax.process_count()) > 1 else ''
    yield (
        f'device     {mesh.size} × {mesh.devices.flat[0].device_kind}{processes}, '
        f'data {mesh.shape["data"]} × fsdp {mesh.shape["fsdp"]}'
    )
    test = '' if text.test is None else f', {len(text.test):,} to test'
    yield (
        f'data       {text.source}: {len(text.train):,} {config.tokens} to train, '
        f'{len(text.valid):,} to validate{test}, {len(text.vocabulary):,} different'
    )
    yield (
        f'model      {config.model}, {sum(leaf.size for leaf in params):,} parameters, '
        f'{config.precision}; {kept / 1e6:,.1f} MB of state on each device'
    )
    yield (
        f'optimizer  {config.optimizer}, batch {config.batch_size} × {config.context}'
    )
    if done:
        yield f'continues  after epoch {done} of {config.epochs}'


def epoch_line(metrics: dict[str, Any]) -> str:
    """An epoch in a line."""
    line = (
        f'epoch {metrics["epoch"]:3d}  loss {metrics["train_loss"]:.4f}  '
        f'{score_words(metrics, "valid")}  '
        f'{metrics["tokens_per_second"]:6.0f} tokens/s  {metrics["seconds"]:.1f} s'
    )
    skipped = metrics.get('skipped_steps')
    return f'{line}  {skipped} steps not finite, skipped' if skipped else line


def last_line(metrics: dict[str, Any]) -> str:
    """What the run came to."""
    return score_words(metrics, 'test' if 'test_loss' in metrics else 'valid')


def scores(part: str, loss: float, tokens: str) -> dict[str, float]:
    """The loss of a part of the text, and what its users call it by."""
    if tokens == 'bytes':
        return {f'{part}_loss': loss, f'{part}_bits_per_byte': loss / math.log(2)}
    return {f'{part}_loss': loss, f'{part}_perplexity': math.exp(min(loss, 700.0))}


def score_words(metrics: dict[str, Any], part: str) -> str:
    """The loss of a part of the text in words."""
    said = f'{part} {metrics[f"{part}_loss"]:.4f}'
    if f'{part}_perplexity' in metrics:
        return f'{said} (perplexity {metrics[f"{part}_perplexity"]:.2f})'
    return f'{said} ({metrics[f"{part}_bits_per_byte"]:.3f} bits per byte)'
