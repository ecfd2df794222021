"""Images a second of examples/cifar's training step, beside PyTorch's.

python -m benchmarks.throughput
python -m benchmarks.throughput --data-dir ~/data --peak-tflops 989

ResNet50 on images of 32 × 32 in one process, in turns: the example's own step and
scan, and `torch_resnet`, both with augmentation on the device. On a GPU batches of 128
in bfloat16; on a CPU, to see that it runs, batches of 8 in float32, uncompiled in
PyTorch.

Utilisation counts the multiplications and additions of convolutions and of the head:
2·k²·C_in·C_out for each output pixel forward, and twice as many backward.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import results
from benchmarks.jax_arms import backend
from benchmarks.tables import show
from benchmarks.timing import Arm, Running, interleave
from diffgrad_optax import diffgrad
from examples.cifar import data as datasets
from examples.cifar.data import Dataset, Split
from examples.cifar.device_data import (
    DeviceData,
    data_parallel_mesh,
    epoch_order,
    put_data,
)
from examples.cifar.train import steps_per_call
from examples.cifar.training import (
    Task,
    TrainState,
    init_state,
    replicated,
    train_steps,
)
from examples.common import cli

NAME = 'throughput'
# Dense bfloat16, by the vendor's datasheet.
PEAK_TFLOPS = {'NVIDIA H200': 989.0, 'NVIDIA H100 80GB HBM3': 989.0}
OPTIMIZERS = {'diffgrad': diffgrad(1e-3), 'optax.adam': optax.adam(1e-3)}
# Of `torch.compile`: the second starts a step's kernels as one graph.
TORCH_MODES = {'cpu': (None,), 'gpu': ('default', 'reduce-overhead')}


class Workload(NamedTuple):
    """What is trained."""

    batch_size: int
    steps: int  # in a call
    width: int
    dtype: str


def workload(backend: str) -> Workload:
    """What this device can bear."""
    if backend == 'cpu':
        return Workload(8, 1, 64, 'float32')
    return Workload(128, steps_per_call(50_000 // 128, backend), 64, 'bfloat16')


def random_images(count: int) -> Dataset:
    """Noise in CIFAR-10's format."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, 10, count, np.int32)
    split = Split(images, labels)
    return Dataset('random numbers', split, split, 10, flip=True, padding=4)


def forward_flops(width: int) -> int:
    """Of one image: see the module's docstring."""
    side, features = 32, width
    flops = 2 * side**2 * 9 * 3 * width
    for stage, size in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for index in range(size):
            flops_in = 2 * side**2 * features * inner
            if stage > 0 and index == 0:
                side //= 2
            flops += flops_in + 2 * side**2 * inner * (9 * inner + 4 * inner)
            if index == 0:
                flops += 2 * side**2 * features * 4 * inner
            features = 4 * inner
    return flops + 2 * features * 10


def jax_arms(data: Dataset, work: Workload) -> Iterator[tuple[str, Arm]]:
    """The steps of the example with each optimizer, by its name."""
    mesh = data_parallel_mesh()
    task, state = init_state(
        'resnet50',
        data=data,
        width=work.width,
        activation='relu',
        dtype=jnp.dtype(work.dtype),
        optimizer=optax.identity(),
        seed=0,
        mesh=mesh,
    )
    images, key = put_data(data, mesh), jax.random.key(0)
    order = epoch_order(
        key, 0, count=len(data.train.labels), batch_size=work.batch_size
    )
    order = order[: work.steps]
    for name, optimizer in OPTIMIZERS.items():
        # Where the step leaves it, or the second call would compile once more.
        own = state._replace(opt_state=optimizer.init(state.params))
        own = replicated(own, mesh)
        yield (
            name,
            jax_arm(task._replace(optimizer=optimizer), own, images, order, key),
        )


def jax_arm(
    task: Task, state: TrainState, images: DeviceData, order: jax.Array, key: jax.Array
) -> Arm:
    """The steps of `order`, starting from a copy of `state`."""

    def arm() -> Running:
        carry = [jax.tree.map(jnp.copy, state)]

        def call() -> None:
            carry[0], _ = train_steps(carry[0], images, order, key, task=task)

        return Running(call, lambda: jax.block_until_ready(carry))

    return arm


def torch_arm(data: Dataset, work: Workload, mode: str | None) -> Arm:
    """The same steps in PyTorch, compiled in this mode."""
    import torch

    from benchmarks.torch_arms import device, wait
    from benchmarks.torch_resnet import make_step

    images = torch.from_numpy(data.train.images.transpose(0, 3, 1, 2).copy())
    step = make_step(
        images.to(device()),
        torch.from_numpy(data.train.labels).long().to(device()),
        width=work.width,
        bfloat16=work.dtype == 'bfloat16',
        mode=mode,
    )
    order = torch.randperm(len(images))[: work.steps * work.batch_size]
    order = order.reshape(work.steps, work.batch_size).to(device())

    def call() -> None:
        for indices in order:
            step(indices)

    return lambda: Running(call, wait)


def torch_arms(
    data: Dataset,
    work: Workload,
    modes: Sequence[str | None],
    say: Callable[[str], None],
) -> dict[str, Arm]:
    """Those of PyTorch that work, compiled; `say` hears of the others."""
    arms = {}
    for mode in modes:
        name = 'PyTorch, Adam(fused=True)' + (f', {mode}' if mode else '')
        try:
            arm = torch_arm(data, work, mode)
            arm().call()
        except Exception as error:  # JAX's times are worth having without it
            say(f'left out {name}: {error!r}')
        else:
            arms[name] = arm
    return arms


def measure(
    data: Dataset, work: Workload, *, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Times the step with each optimizer, and PyTorch's."""
    arms = {f'examples/cifar, {name}': arm for name, arm in jax_arms(data, work)}
    arms |= torch_arms(data, work, TORCH_MODES[backend()], say)
    return {
        'images': data.source,
        **work._asdict(),
        'flops_per_image': 3 * forward_flops(work.width),
        'rounds': rounds,
        'seconds': interleave(arms, rounds=rounds, calls=1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--data-dir',
        type=Path,
        help="CIFAR-10's; left out, random images: matrix units heat up by their data",
    )
    parser.add_argument('--rounds', type=results.positive, default=3)
    parser.add_argument('--peak-tflops', type=float, help="the device's, in this dtype")
    parser.add_argument('--out-dir', type=Path)
    parser.add_argument('--smoke', action='store_true', help='tiny, measures nothing')
    args = parser.parse_args(argv)
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.6')
    out_dir = results.folder(args.out_dir, backend(), smoke=args.smoke)
    work = Workload(2, 1, 2, 'float32') if args.smoke else workload(backend())
    data = random_images(work.steps * work.batch_size)
    if args.data_dir is not None:
        data = datasets.load('cifar10', args.data_dir)
    measured = measure(data, work, rounds=1 if args.smoke else args.rounds, say=print)
    facts = results.facts()
    peak = args.peak_tflops or PEAK_TFLOPS.get(facts['device'])
    result = {**facts, 'peak_tflops': peak, **measured}
    results.write(out_dir / f'{NAME}.json', result)
    show(result)


if __name__ == '__main__':
    cli.run(main)
