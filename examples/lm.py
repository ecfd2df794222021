"""Trains a Transformer on the bytes of a text, sharded over a mesh of devices.

    python examples/lm.py                      # Python's documentation, needs no file
    python examples/lm.py --text book.txt --optimizer adam
    python examples/lm.py --model-parallel 4 --layers 12 --width 1024 --heads 16 \
        --context 1024 --batch-size 64 --precision bfloat16            # for 8 GPUs

The mesh has axes `data`, over which each batch is split, and `model`, over which weight
matrices and the optimizer's state are split. Names end in the axes of an array: Batch,
Length, width D, Heads, Key features.
"""

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from diffgrad_optax import diffgrad

# How to make an optimizer, and its part of --learning-rate.
OPTIMIZERS: dict[str, tuple[Callable[..., Any], float]] = {
    'adam': (optax.adam, 1.0),
    'adam-half': (optax.adam, 0.5),
    'diffgrad': (diffgrad, 1.0),
    'diffgrad-relative': (functools.partial(diffgrad, friction='relative_dfc'), 1.0),
}
# How each layer's matrix is split: pairs of matrices first by column, then by row, so
# that devices exchange a sum after each pair and nothing between.
SPECS = {
    'embed': P(None, 'model'),
    'qkv': P(None, 'model'),
    'out': P('model', None),
    'up': P(None, 'model'),
    'down': P('model', None),
    'head': P(None, 'model'),
}
EVALUATIONS = 10  # in a run


class Parser(argparse.ArgumentParser):
    """Refuses a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(f'error: {message}')


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """The type of a flag; argparse prints its name when it refuses a value."""

    def parse(text: str) -> float:
        if not 0 < kind(text) < 2**31:
            raise ValueError
        return kind(text)

    parse.__name__ = f'positive {kind.__name__}'
    return parse


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line, and refuses what does not divide."""
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = Parser(allow_abbrev=False, formatter_class=form)

    def add(name: str, default: Any, help: str, type: Any = str, **more: Any) -> None:
        parser.add_argument(name, default=default, help=help, type=type, **more)

    whole = positive(int)
    add('--text', None, "a file; left out, it is Python's documentation", Path)
    add('--layers', 2, 'each of attention and a feed-forward layer', whole)
    add('--width', 128, 'features of a token', whole)
    add('--heads', 4, 'of each attention', whole)
    add('--context', 128, 'bytes in a window', whole)
    add('--precision', 'float32', 'of activations', choices=['float32', 'bfloat16'])
    add('--optimizer', 'diffgrad', 'one of them', choices=OPTIMIZERS)
    add('--learning-rate', 3e-3, 'the largest of the schedule', positive(float))
    add('--batch-size', 16, 'windows in a step, over all devices', whole)
    add('--steps', 400, 'updates of the parameters', whole)
    add('--model-parallel', 1, 'devices that share a matrix', whole)
    add('--sample', 300, 'bytes to write in the end', whole)
    add('--seed', 1, 'of initialization, order and sample', whole)
    settings = parser.parse_args(argv)
    parallel, devices = settings.model_parallel, jax.device_count()
    for flag, value, divisor, of in (
        ('width', settings.width, 2 * settings.heads, 'twice the heads'),
        ('heads', settings.heads, parallel, '--model-parallel'),
        ('batch-size', settings.batch_size, max(1, devices // parallel), 'data axis'),
    ):
        if value % divisor:
            parser.error(f'--{flag} {value} must be a multiple of {divisor} ({of})')
    if devices % parallel or 256 % parallel:
        allowed = f'divide the {devices} devices and 256'
        parser.error(f'--model-parallel {parallel} must {allowed}')
    return settings


def load(path: Path | None, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine tenths of a text to train and the rest to validate, as bytes."""
    if path is None:
        # Topics contain one another; each paragraph counts once.
        paragraphs: dict[str, str] = {}
        for name in sorted(topics):
            for paragraph in topics[name].split('\n\n'):
                paragraphs.setdefault(' '.join(paragraph.split()), paragraph)
        content = '\n\n'.join(paragraphs.values()).encode()
    else:
        try:
            content = path.read_bytes()
        except OSError as error:
            why = f'must be a readable file ({error.strerror})'
            raise SystemExit(f'error: --text {path} {why}') from error
    if len(content) < (least := 10 * (context + 2)):
        raise SystemExit(f'error: --text {path} must have at least {least} bytes')
    train, valid = np.split(np.frombuffer(content, np.uint8), [len(content) * 9 // 10])
    return train, valid


class Block(nnx.Module):
    """Causal attention with rotary positions, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, branch: float, **kwargs: Any) -> None:
        self.heads = heads
        self.norm = nnx.RMSNorm(width, **kwargs)
        self.qkv = linear(width, 3 * width, 1.0, **kwargs)
        self.out = linear(width, width, branch, **kwargs)
        self.up_norm = nnx.RMSNorm(width, **kwargs)
        self.up = linear(width, 4 * width, 1.0, **kwargs)
        self.down = linear(4 * width, width, branch, **kwargs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        # Heads first, so that each device has whole ones.
        shape = (*x_BxLxD.shape[:2], self.heads, 3, -1)
        qkv = self.qkv(self.norm(x_BxLxD)).reshape(shape)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = (qkv[:, :, :, i] for i in range(3))
        y_BxLxHxK = jax.nn.dot_product_attention(
            rotary(q_BxLxHxK), rotary(k_BxLxHxK), v_BxLxHxK, is_causal=True
        )
        x_BxLxD = x_BxLxD + self.out(y_BxLxHxK.reshape(x_BxLxD.shape))
        return x_BxLxD + self.down(jax.nn.gelu(self.up(self.up_norm(x_BxLxD))))


def linear(features_in: int, features: int, scale: float, **kwargs: Any) -> nnx.Linear:
    """Without bias; outputs start `scale` times as large as inputs."""
    init = nnx.initializers.normal(scale / math.sqrt(features_in))
    return nnx.Linear(features_in, features, use_bias=False, kernel_init=init, **kwargs)


def rotary(x_BxLxHxK: jax.Array) -> jax.Array:
    """Rotates pairs of features by angles in proportion to the position."""
    length, features = x_BxLxHxK.shape[1], x_BxLxHxK.shape[-1]
    frequencies = 10_000.0 ** -jnp.linspace(0, 1, features // 2, endpoint=False)
    angles = jnp.arange(length)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return rotated.astype(x_BxLxHxK.dtype)


class Transformer(nnx.Module):
    """A decoder-only language model on bytes: RMSNorm first, no biases."""

    def __init__(self, layers: int, width: int, heads: int, **kwargs: Any) -> None:
        init = nnx.initializers.normal(1.0)
        self.embed = nnx.Embed(256, width, embedding_init=init, **kwargs)
        # Branches start smaller the more of them are summed.
        branch = 1 / math.sqrt(2 * layers)
        self.blocks = nnx.List(
            Block(width, heads, branch, **kwargs) for _ in range(layers)
        )
        self.norm = nnx.RMSNorm(width, **kwargs)
        self.head = linear(width, 256, 0.1, **kwargs)

    def __call__(self, bytes_BxL: jax.Array) -> jax.Array:
        """Logits (float32) of the byte after each: batch × length × 256."""
        x_BxLxD = self.embed(bytes_BxL.astype(jnp.int32))
        for block in self.blocks:
            x_BxLxD = block(x_BxLxD)
        return self.head(self.norm(x_BxLxD)).astype(jnp.float32)


class TrainState(NamedTuple):
    """All that training changes."""

    params: Any
    opt_state: Any


def specs(tree: Any) -> Any:
    """How each array is split: matrices by SPECS, all others replicated.

    The optimizer's moments have their parameters' names in their paths, and so are
    split like them.
    """

    def spec(path: Any, leaf: Any) -> P:
        names = [name for name in SPECS if f"['{name}']" in jax.tree_util.keystr(path)]
        return SPECS[names[0]] if names and leaf.ndim == 2 else P()

    return jax.tree_util.tree_map_with_path(spec, tree)


def losses_of(graphdef: Any, params: Any, text: Any, starts: Any, context: int) -> Any:
    """Cross-entropy of each byte of the windows at `starts`: batch × context."""
    starts = jax.lax.with_sharding_constraint(starts, P('data'))
    windows = text[starts[:, None] + jnp.arange(context + 1)].astype(jnp.int32)
    logits = nnx.merge(graphdef, params)(windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])


@functools.partial(
    jax.jit,
    static_argnames=('graphdef', 'optimizer', 'context'),
    donate_argnames='state',
)
def train_steps(
    state: TrainState,
    text: jax.Array,
    starts: jax.Array,
    graphdef: Any,
    optimizer: Any,
    context: int,
) -> tuple[TrainState, jax.Array]:
    """Takes one step for each row of `starts`; returns the mean loss too."""

    def step(state: TrainState, starts: jax.Array) -> tuple[TrainState, jax.Array]:
        def mean_loss(params: Any) -> jax.Array:
            return jnp.mean(losses_of(graphdef, params, text, starts, context))

        loss, grads = jax.value_and_grad(mean_loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = TrainState(optax.apply_updates(state.params, updates), opt_state)
        # As it was split before; a compiler need not leave it so.
        return jax.lax.with_sharding_constraint(state, specs(state)), loss

    state, losses = jax.lax.scan(step, state, starts)
    return state, jnp.mean(losses)


@functools.partial(jax.jit, static_argnames=('graphdef', 'context'))
def evaluate(
    params: Any, text: jax.Array, starts: jax.Array, graphdef: Any, context: int
) -> jax.Array:
    """The mean loss of the windows at `starts`, batch by batch; -1 is no window."""

    def batch_loss(starts: jax.Array) -> jax.Array:
        losses = losses_of(graphdef, params, text, jnp.maximum(starts, 0), context)
        return jnp.sum(jnp.where(starts[:, None] < 0, 0.0, losses))

    return jnp.sum(jax.lax.map(batch_loss, starts)) / (jnp.sum(starts >= 0) * context)


@functools.partial(jax.jit, static_argnames=('graphdef', 'count'))
def sample(
    params: Any, prompt: jax.Array, key: jax.Array, graphdef: Any, count: int
) -> jax.Array:
    """Continues `prompt` by `count` bytes, drawn at temperature 0.8."""

    def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graphdef, params)(window[None])[0, -1]
        drawn = jax.random.categorical(key, logits / 0.8).astype(jnp.uint8)
        return jnp.append(window[1:], drawn), drawn

    return jax.lax.scan(step, prompt, jax.random.split(key, count))[1]


def start(settings: argparse.Namespace) -> tuple[Any, Any, TrainState]:
    """The network without arrays, the optimizer, and the first state, made in place."""
    make, part = OPTIMIZERS[settings.optimizer]
    peak, steps = part * settings.learning_rate, settings.steps
    # Up over a twentieth of the steps, down to a tenth of the peak.
    rate = optax.warmup_cosine_decay_schedule(
        0.0, peak, max(1, steps // 20), steps, peak / 10
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), make(rate))

    def model(key: jax.Array) -> Transformer:
        dtype, rngs = jnp.dtype(settings.precision), nnx.Rngs(key)
        size = settings.layers, settings.width, settings.heads
        return Transformer(*size, dtype=dtype, rngs=rngs)

    def init(key: jax.Array) -> TrainState:
        params = nnx.as_pure(nnx.state(model(key), nnx.Param))
        return TrainState(params, optimizer.init(params))

    key = jax.random.key(settings.seed)
    where = specs(jax.eval_shape(init, key))
    state = jax.jit(init, out_shardings=where)(key)
    return nnx.graphdef(nnx.eval_shape(lambda: model(key))), optimizer, state


def run(settings: argparse.Namespace) -> list[float]:
    """Trains; prints and returns the validation loss, and prints a sample."""
    context, batch = settings.context, settings.batch_size
    texts = load(settings.text, context)
    train, valid = (jax.device_put(text, P()) for text in texts)
    graphdef, optimizer, state = start(settings)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f'{count:,} parameters, {len(train):,} bytes to train', flush=True)

    def batches(starts: np.ndarray) -> Any:
        rows = starts.astype(np.int32).reshape(-1, batch)
        return jax.device_put(rows, P(None, 'data'))

    whole = np.arange(0, len(valid) - context, context)
    padded = np.pad(whole, (0, -len(whole) % batch), constant_values=-1)
    rng, began, losses = np.random.default_rng(settings.seed), time.perf_counter(), []
    ends = np.unique(np.linspace(0, settings.steps, EVALUATIONS + 1).astype(int))
    for first, last in tqdm([*itertools.pairwise(ends)], disable=None):
        starts = rng.integers(len(train) - context, size=(last - first) * batch)
        state, loss = train_steps(
            state, train, batches(starts), graphdef, optimizer, context
        )
        value = float(evaluate(state.params, valid, batches(padded), graphdef, context))
        losses.append(value)
        tqdm.write(
            f'step {last:5d}  training {float(loss):.4f}  validation {value:.4f} nats '
            f'per byte  {time.perf_counter() - began:.0f} s'
        )
    key = jax.random.fold_in(jax.random.key(settings.seed), settings.steps)
    drawn = sample(state.params, valid[:context], key, graphdef, settings.sample)
    text = bytes(np.asarray(drawn)).decode(errors='replace')
    print(''.join(c if c.isprintable() or c == '\n' else '?' for c in text))
    return losses


def main() -> None:
    """The command line."""
    settings = parse()
    data = jax.device_count() // settings.model_parallel
    shape, axes = (data, settings.model_parallel), ('data', 'model')
    with jax.set_mesh(jax.make_mesh(shape, axes, (AxisType.Auto,) * 2)):
        run(settings)


if __name__ == '__main__':
    main()
