"""Trains the diffGrad paper's ResNet50 on handwritten digits, CIFAR-10 or CIFAR-100.

    python examples/cifar.py                       # digits, which need no files
    python examples/cifar.py --stages 1 1 1 --width 16 \
        --optimizer adam adam-half diffgrad --seeds 3 --out-dir runs/small
    python examples/cifar.py --dataset cifar10 --data-dir cifar-10-batches-bin \
        --epochs 100 --precision bfloat16 --out-dir runs/cifar10    # for a GPU

The images stay on the devices, which crop and mirror them. Each batch is split over all
local devices. A repeated command continues from its last checkpoint and ends with the
same bits. Nothing is selected on the test images: results are those of the last epoch.
"""

import functools
import itertools
import json
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import scipy.stats
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tqdm import tqdm

from diffgrad_optax import diffgrad

relative_diffgrad = functools.partial(diffgrad, friction='relative_dfc')
# How to make an optimizer, its part of --learning-rate, its color in the picture.
OPTIMIZERS: dict[str, tuple[Callable[..., Any], float, str]] = {
    'adam': (optax.adam, 1.0, 'black'),
    'adam-half': (optax.adam, 0.5, 'grey'),
    'diffgrad': (diffgrad, 1.0, 'tab:blue'),
    'diffgrad-relative': (relative_diffgrad, 1.0, 'tab:orange'),
}
# Training files, test files, label bytes in a record (the last one counts), classes.
BATCHES = [f'data_batch_{i}.bin' for i in range(1, 6)]
CIFAR = {
    'cifar10': (BATCHES, ['test_batch.bin'], 1, 10),
    'cifar100': (['train.bin'], ['test.bin'], 2, 100),
}


class Parser(ArgumentParser):
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


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """Reads the command line."""
    parser = Parser(allow_abbrev=False, formatter_class=ArgumentDefaultsHelpFormatter)

    def add(name: str, default: Any, help: str, type: Any = str, **more: Any) -> None:
        parser.add_argument(name, default=default, help=help, type=type, **more)

    whole = positive(int)
    add('--dataset', 'digits', 'what to learn', choices=['digits', *CIFAR])
    add('--data-dir', Path('data'), 'the folder of the binary version of CIFAR', Path)
    add('--stages', [3, 4, 6, 3], 'blocks in each stage', whole, nargs='+')
    add('--width', 64, 'features of the first convolution', whole)
    add('--precision', 'float32', 'of activations', choices=['float32', 'bfloat16'])
    add('--optimizer', ['diffgrad'], 'one or more', choices=OPTIMIZERS, nargs='+')
    add('--seeds', 1, 'how many runs of each optimizer', whole)
    add('--learning-rate', 1e-3, 'for the first 80%% of epochs', positive(float))
    add('--batch-size', 128, 'images in a step, over all devices', whole)
    add('--epochs', 20, 'passes over the training images', whole)
    add('--checkpoint-every', 1, 'epochs from one checkpoint to the next', whole)
    add('--out-dir', Path('runs/cifar'), 'where everything is written', Path)
    settings = parser.parse_args(argv)
    if (size := settings.batch_size) % (count := jax.local_device_count()):
        parser.error(f'--batch-size {size} must be a multiple of the {count} devices')
    return settings


# Images (count × height × width × channels, uint8), labels (int32), the same to test.
Data = tuple[Any, Any, Any, Any]


def load(settings: Namespace) -> Data:
    """The data set; CIFAR's files must have their published sizes."""
    if settings.dataset == 'digits':
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        train, test = np.split(np.random.default_rng(0).permutation(1797), [1437])
        labels = digits.target.astype(np.int32)
        return (images[train], labels[train], images[test], labels[test])
    train_files, test_files, label_bytes, classes = CIFAR[settings.dataset]
    size = label_bytes + 3 * 32 * 32

    def read(names: Sequence[str], count: int) -> tuple[np.ndarray, np.ndarray]:
        where = f'error: --data-dir {settings.data_dir} must have {", ".join(names)}'
        try:
            files = [np.fromfile(settings.data_dir / name, np.uint8) for name in names]
        except OSError as error:
            page = 'https://www.cs.toronto.edu/~kriz/cifar.html'
            raise SystemExit(f'{where} (binary version, {page})') from error
        content = np.concatenate(files)
        labels = content[label_bytes - 1 :: size].astype(np.int32)
        if len(content) != count * size or labels.max() >= classes:
            raise SystemExit(f'{where} of {count} images with labels below {classes}')
        images = content.reshape(count, size)[:, label_bytes:].reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels

    return (*read(train_files, 50_000), *read(test_files, 10_000))


# Variance 1/(3 fan_in) is PyTorch's uniform distribution on ±1/√fan_in.
uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def conv_norm(
    channels: int, features: int, kernel: int, stride: int, **kwargs: Any
) -> nnx.Sequential:
    """A convolution, padded as PyTorch pads, and batch normalization."""
    make = functools.partial(nnx.Conv, use_bias=False, kernel_init=uniform_fan_in)
    size, padding = (kernel, kernel), kernel // 2
    return nnx.Sequential(
        make(channels, features, size, stride, padding=padding, **kwargs),
        nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, **kwargs),
    )


class Bottleneck(nnx.Module):
    """1×1, 3×3 (which has the stride) and 1×1 convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, **kwargs: Any) -> None:
        self.reduce = conv_norm(channels, width, 1, 1, **kwargs)
        self.conv = conv_norm(width, width, 3, stride, **kwargs)
        self.expand = conv_norm(width, 4 * width, 1, 1, **kwargs)
        self.projects = stride != 1 or channels != 4 * width
        if self.projects:
            self.shortcut = conv_norm(channels, 4 * width, 1, stride, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.expand(jax.nn.relu(self.conv(jax.nn.relu(self.reduce(x)))))
        return jax.nn.relu(y + (self.shortcut(x) if self.projects else x))


class ResNet(nnx.Module):
    """A residual network for small images: its stem neither strides nor pools.

    Stages (3, 4, 6, 3) of width 64, for 3 channels and 10 classes, are the paper's
    ResNet50 of 23,520,842 parameters.
    """

    def __init__(
        self, stages: Any, width: int, channels: int, classes: int, **kwargs: Any
    ) -> None:
        self.stem = conv_norm(channels, width, 3, 1, **kwargs)
        blocks, features = [], width
        for stage, size in enumerate(stages):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Bottleneck(features, width << stage, stride, **kwargs))
                features = 4 * width << stage
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(features, classes, kernel_init=uniform_fan_in, **kwargs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (float32) of uint8 images."""
        x = jax.nn.relu(self.stem(images.astype(jnp.float32) / 127.5 - 1))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)


class TrainState(NamedTuple):
    """All that training changes."""

    params: Any
    batch_stats: Any  # running means and variances
    opt_state: Any
    step: jax.Array  # updates so far: int32, scalar


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
    """Random crops of the zero-padded images, half of them mirrored unless digits."""
    mirror_key, crop_key = jax.random.split(key)
    if not (digits := images.shape[-1] == 1):
        mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    padding = 1 if digits else 4
    widths = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(jnp.pad(images, widths), corners)


@functools.partial(
    jax.jit, static_argnames=('graphdef', 'optimizer'), donate_argnames='state'
)
def train_steps(
    state: TrainState, data: Data, order: Any, key: Any, graphdef: Any, optimizer: Any
) -> tuple[TrainState, jax.Array]:
    """Takes one step of the network `graphdef` for each row; returns the mean loss."""
    images, labels, _, _ = data

    def step(state: TrainState, indices: jax.Array) -> tuple[TrainState, jax.Array]:
        # By the step's number, so that a resumed run is the same run.
        step_key = jax.random.fold_in(key, state.step)
        batch = augment(images[indices], step_key)

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(graphdef, params, state.batch_stats, copy=True)
            model.train()
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(batch), labels[indices]
            )
            return jnp.mean(losses), nnx.as_pure(nnx.state(model, nnx.BatchStat))

        grad = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, stats), grads = grad(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, stats, opt_state, state.step + 1), loss

    if len(order) == 1:  # XLA runs convolutions in a loop 8 times slower on CPUs
        return step(state, order[0])
    state, losses = jax.lax.scan(step, state, order)
    return state, jnp.mean(losses)


@functools.partial(jax.jit, static_argnames='graphdef')
def count_correct(state: TrainState, data: Data, indices: Any, graphdef: Any) -> Any:
    """How many test images are classified correctly; index -1 fills up a batch."""
    _, _, images, labels = data
    model = nnx.merge(graphdef, state.params, state.batch_stats, copy=True)
    model.eval()
    classes = jnp.argmax(model(images[indices]), axis=-1)
    return jnp.sum((classes == labels[indices]) & (indices >= 0))


def make_optimizer(settings: Namespace, name: str, steps: int) -> Any:
    """The optimizer, at a tenth of its learning rate in the last fifth of epochs."""
    make, part, _ = OPTIMIZERS[name]
    drop = {round(0.8 * settings.epochs) * steps: 0.1}
    return make(optax.piecewise_constant_schedule(part * settings.learning_rate, drop))


def make_model(settings: Namespace, seed: int) -> ResNet:
    """The network with the parameters that training starts with."""
    return ResNet(
        settings.stages,
        settings.width,
        channels=1 if settings.dataset == 'digits' else 3,
        classes=100 if settings.dataset == 'cifar100' else 10,
        dtype=jnp.dtype(settings.precision),
        rngs=nnx.Rngs(seed),
    )


def train(settings: Namespace, name: str, seed: int, optimizer: Any, data: Data) -> Any:
    """Trains, or continues; returns loss, test accuracy (%) and images/s by epoch."""
    mesh, model = data[0].sharding.mesh, make_model(settings, seed)
    graphdef, *arrays = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.as_pure, arrays)
    state = TrainState(params, stats, optimizer.init(params), jnp.int32(0))
    state = jax.device_put(state, NamedSharding(mesh, P()))
    history, key = np.zeros((settings.epochs, 3)), jax.random.key(seed)
    batch, count = settings.batch_size, len(data[3])
    steps = len(data[1]) // batch  # in an epoch
    most = 1 if jax.default_backend() == 'cpu' else 40
    chunk = max(n for n in range(1, most + 1) if steps % n == 0)  # steps in a call

    def batches(indices: np.ndarray) -> Any:
        rows = indices.reshape(-1, batch).astype(np.int32)
        return jax.device_put(rows, NamedSharding(mesh, P(None, 'data')))

    test = batches(np.pad(np.arange(count), (0, -count % batch), constant_values=-1))
    folder = settings.out_dir.absolute() / f'{name}-seed{seed}'
    keep = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(folder, options=keep) as manager:
        if done := manager.latest_step() or 0:
            restore = ocp.args.StandardRestore((state, history))
            state, history = manager.restore(done, args=restore)
        for epoch in range(done + 1, settings.epochs + 1):
            began = time.perf_counter()
            order: Any = np.random.default_rng([seed, epoch]).permutation(len(data[1]))
            order, losses = batches(order[: steps * batch]), []
            title = f'{name} seed {seed} epoch {epoch}/{settings.epochs}'
            for i in tqdm(range(0, steps, chunk), title, leave=False, disable=None):
                rows = order[i : i + chunk]
                state, loss = train_steps(state, data, rows, key, graphdef, optimizer)
                losses.append(loss)
            loss = np.mean(jax.device_get(losses))
            if not np.isfinite(loss):
                given = f'--learning-rate {settings.learning_rate}'
                raise SystemExit(f'error: {given} must be smaller: the loss is {loss}')
            speed = steps * batch / (time.perf_counter() - began)
            correct = sum(
                int(count_correct(state, data, row, graphdef)) for row in test
            )
            history[epoch - 1] = loss, 100 * correct / count, speed
            if epoch % settings.checkpoint_every == 0 or epoch == settings.epochs:
                manager.save(epoch, args=ocp.args.StandardSave((state, history)))
    loss, accuracy, _ = history[-1]
    print(f'{name} seed {seed}: loss {loss:.4f}, test accuracy {accuracy:.2f}%')
    return history


def table(results: dict[str, np.ndarray], seeds: int) -> str:
    """Mean ± standard deviation over seeds, and what paired differences say."""
    lines = ['| optimizer | test accuracy (%) | final training loss | images/s |']
    lines.append('|---|---:|---:|---:|')
    for name, history in results.items():  # seeds × epochs × 3
        mean, spread = history[:, -1].mean(0), history[:, -1].std(0, ddof=seeds > 1)
        lines.append(
            f'| {name} | {mean[1]:.2f} ± {spread[1]:.2f} | {mean[0]:.4f} ± '
            f'{spread[0]:.4f} | {np.median(history[..., 2]):.0f} |'
        )
    for one, other in itertools.combinations(results if seeds > 1 else (), 2):
        difference = results[one][:, -1, 1] - results[other][:, -1, 1]
        mean, error = difference.mean(), scipy.stats.sem(difference)
        reach = error * scipy.stats.t.ppf(0.975, seeds - 1)
        better = f'{one if mean > 0 else other} is better'
        verdict = better if abs(mean) > reach else 'no difference beyond the seeds'
        interval = f'{mean - reach:+.2f} to {mean + reach:+.2f}'
        lines.append(f'{one} − {other}: {mean:+.2f} (95%: {interval}): {verdict}')
    return '\n'.join(lines)


def draw(path: Path, results: dict[str, np.ndarray], title: str) -> None:
    """Draws training loss and test accuracy over the epochs."""
    figure = Figure(figsize=(10, 4), layout='constrained')
    for i, label in enumerate(('training loss (nats)', 'test accuracy (%)')):
        axes = figure.add_subplot(1, 2, i + 1, xlabel='epoch', ylabel=label)
        for name, history in results.items():
            x, y = range(1, history.shape[1] + 1), history[..., i]
            mean, spread, color = y.mean(0), y.std(0), OPTIMIZERS[name][2]
            axes.plot(x, mean, label=name, color=color)
            axes.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.2)
    axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def run(settings: Namespace) -> dict[str, np.ndarray]:
    """Trains every optimizer with every seed; prints and writes the results."""
    data, out_dir = load(settings), settings.out_dir
    if (size := settings.batch_size) > (most := len(data[1])):
        raise SystemExit(f'error: --batch-size {size} must be at most {most}')
    record, told = out_dir / 'settings.json', json.dumps(vars(settings), default=str)
    if out_dir.exists() and not (record.exists() and record.read_text() == told):
        raise SystemExit(f'error: --out-dir {out_dir} must be new or of these settings')
    out_dir.mkdir(parents=True, exist_ok=True)
    record.write_text(told)
    mesh = jax.make_mesh((jax.local_device_count(),), ('data',), (AxisType.Auto,))
    print(f'jax {jax.__version__} on {mesh.size} × {mesh.devices.flat[0].device_kind}')
    data = jax.device_put(data, NamedSharding(mesh, P()))
    results = {}
    for name in dict.fromkeys(settings.optimizer):
        optimizer = make_optimizer(settings, name, len(data[1]) // settings.batch_size)
        seeds = range(settings.seeds)
        runs = [train(settings, name, seed, optimizer, data) for seed in seeds]
        results[name] = np.array(runs)
    print(text := table(results, settings.seeds))
    (out_dir / 'table.md').write_text(text + '\n')
    title = f'{settings.dataset}: mean ± standard deviation of {settings.seeds} seeds'
    draw(out_dir / 'curves.png', results, title)
    return results


def main() -> None:
    """The command line."""
    try:
        run(parse())
    except OSError as error:
        raise SystemExit(f'error: {error}') from error


if __name__ == '__main__':
    main()
