"""Images a second of experiments/cifar's training step, beside PyTorch's.

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
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cli, results
from benchmarks.jax_arms import backend
from benchmarks.tables import show
from benchmarks.timing import Arm, Running, interleave
from diffgrad_optax import diffgrad
from experiments.cifar import data as datasets
from experiments.cifar.data import Dataset, Split
from experiments.cifar.device_data import (
    DeviceData,
    data_parallel_mesh,
    epoch_order,
    put_data,
)
from experiments.cifar.train import steps_per_call
from experiments.cifar.training import (
    Task,
    TrainState,
    init_state,
    replicated,
    scan_steps,
    train_steps,
)
from experiments.lab.cli import UserError as LaboratoryError

NAME = 'throughput'
# Dense bfloat16, by the vendor's datasheet.
PEAK_TFLOPS = {'NVIDIA H200': 989.0, 'NVIDIA H100 80GB HBM3': 989.0}
OPTIMIZERS = {'diffgrad': diffgrad(1e-3), 'optax.adam': optax.adam(1e-3)}
# Of `torch.compile`: the second starts a step's kernels as one graph.
TORCH_MODES = {'cpu': (None,), 'gpu': ('default', 'reduce-overhead')}
# XLA starts kernels as graphs too, but leaves convolutions out of them: a step of
# ResNet50 is 41 graphs with 50 convolutions between. With them it is one. (The option
# replaces the whole list, so that all of XLA's own are named before the last.)
ONE_GRAPH = {
    'xla_gpu_enable_command_buffer': (
        'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,DYNAMIC_SLICE_FUSION,'
        'CONVOLUTION'
    )
}


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


def load_images(data_dir: Path) -> Dataset:
    """CIFAR-10.

    Raises:
      UserError: if it is not there.
    """
    try:
        return datasets.load('cifar10', data_dir)
    except LaboratoryError as error:
        raise cli.UserError(str(error)) from error


class Example(NamedTuple):
    """The example's training, but for its optimizer."""

    task: Task
    state: TrainState
    images: DeviceData
    order: jax.Array  # of the images, steps × batch
    key: jax.Array


def example(data: Dataset, work: Workload) -> Example:
    """As the example begins."""
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
    key = jax.random.key(0)
    order = epoch_order(
        key, 0, count=len(data.train.labels), batch_size=work.batch_size
    )
    return Example(task, state, put_data(data, mesh), order[: work.steps], key)


def with_optimizer(
    of: Example, optimizer: optax.GradientTransformation
) -> tuple[Task, TrainState]:
    """What is trained with this one, and its first state."""
    # Where the step leaves it, or the second call would compile once more.
    state = of.state._replace(opt_state=optimizer.init(of.state.params))
    state = replicated(state, data_parallel_mesh())
    return of.task._replace(optimizer=optimizer), state


def jax_arm(of: Example, optimizer: optax.GradientTransformation) -> Arm:
    """The example's own steps."""
    task, state = with_optimizer(of, optimizer)
    return stepping(functools.partial(train_steps, task=task), state, of)


def one_graph_arm(of: Example, optimizer: optax.GradientTransformation) -> Arm:
    """The example's scan, compiled with `ONE_GRAPH`."""
    task, state = with_optimizer(of, optimizer)
    lowered = scan_steps.lower(state, of.images, of.order, of.key, task=task)
    return stepping(lowered.compile(compiler_options=ONE_GRAPH), state, of)


def stepping(program: Any, state: TrainState, of: Example) -> Arm:
    """Calls of `program`, from a copy of `state` on."""

    def arm() -> Running:
        carry = [jax.tree.map(jnp.copy, state)]

        def call() -> None:
            carry[0], _ = program(carry[0], of.images, of.order, of.key)

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


def working(
    makers: Mapping[str, Callable[[], Arm]], say: Callable[[str], None]
) -> dict[str, Arm]:
    """The arms that can be made and called; `say` hears of the others."""
    arms = {}
    for name, make in makers.items():
        try:
            arm = make()
            running = arm()
            running.call()
            running.wait()
        except Exception as error:  # the others' times are worth having without it
            say(f'left out {name}: {error!r}')
        else:
            arms[name] = arm
    return arms


def measure(
    data: Dataset,
    work: Workload,
    *,
    one_graph: bool = False,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Times the step with each optimizer, and PyTorch's."""
    of = example(data, work)
    arms = {f'experiments/cifar, {n}': jax_arm(of, o) for n, o in OPTIMIZERS.items()}
    others = {}
    if one_graph:
        others['experiments/cifar, diffgrad, one graph'] = functools.partial(
            one_graph_arm, of, OPTIMIZERS['diffgrad']
        )
    for mode in TORCH_MODES[backend()]:
        name = 'PyTorch, Adam(fused=True)' + (f', {mode}' if mode else '')
        others[name] = functools.partial(torch_arm, data, work, mode)
    arms |= working(others, say)
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
        type=cli.path,
        help="CIFAR-10's; left out, random images: matrix units heat up by their data",
    )
    parser.add_argument(
        '--one-graph',
        action='store_true',
        help='also the step whose convolutions a GPU starts in one graph with the rest',
    )
    parser.add_argument('--rounds', type=results.positive, default=3)
    parser.add_argument('--peak-tflops', type=float, help="the device's, in this dtype")
    parser.add_argument('--out-dir', type=cli.path)
    parser.add_argument('--smoke', action='store_true', help='tiny, measures nothing')
    args = parser.parse_args(argv)
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.6')
    out_dir = results.folder(args.out_dir, backend(), smoke=args.smoke)
    work = Workload(2, 1, 2, 'float32') if args.smoke else workload(backend())
    data = random_images(work.steps * work.batch_size)
    if args.data_dir is not None:
        data = load_images(args.data_dir)
    measured = measure(
        data,
        work,
        one_graph=args.one_graph,
        rounds=1 if args.smoke else args.rounds,
        say=print,
    )
    facts = results.facts()
    peak = args.peak_tflops or PEAK_TFLOPS.get(facts['device'])
    result = {**facts, 'peak_tflops': peak, **measured}
    name = f'{NAME}-one-graph' if args.one_graph else NAME
    results.write(out_dir / f'{name}.json', result)
    show(result)


if __name__ == '__main__':
    cli.run(main)
