"""Epochs of the compiled steps, and how they go."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from experiments.cifar.config import Config
from experiments.cifar.device_data import DeviceData, epoch_order
from experiments.cifar.training import Metrics, Task, TrainState, evaluate, train_steps
from experiments.lab.divergence import NonFiniteError, check_losses
from experiments.lab.processes import alone_on_cpu, leads


class Trainer:
    """Runs epochs of the compiled steps and shows how they go.

    All processes call everything, in the same order.
    """

    def __init__(
        self, config: Config, task: Task, data: DeviceData, mesh: Mesh, chunk: int
    ) -> None:
        self.config = config
        self.task = task
        self.data = data
        self.mesh = mesh
        self.key = jax.random.key(config.seed)
        self.steps = len(data.train_labels) // config.batch_size
        self.chunk = chunk  # steps in a call

    def order(self, epoch: int) -> jax.Array:
        """The images of each step of an epoch, each batch split over the devices."""
        order = epoch_order(
            self.key,
            epoch,
            count=len(self.data.train_labels),
            batch_size=self.config.batch_size,
        )
        return jax.device_put(order, NamedSharding(self.mesh, P(None, 'data')))

    def compile(self, state: TrainState) -> float:
        """Makes the first calls, on a copy of `state`; returns the seconds it took."""
        start = time.perf_counter()
        order = self.order(1)[: self.chunk]
        copy = jax.tree.map(jnp.copy, state)
        copy, _ = train_steps(copy, self.data, order, self.key, task=self.task)
        jax.block_until_ready(self.evaluate(copy))
        return time.perf_counter() - start

    def evaluate(self, state: TrainState) -> Metrics:
        return evaluate(
            state,
            self.data,
            task=self.task,
            batch_size=self.config.batch_size,
            mesh=self.mesh,
        )

    def epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
        """One pass over the training images and one over the test images.

        Raises:
          NonFiniteError: if a loss is not finite; of a step's it may be skipped.
        """
        start = time.perf_counter()
        order = self.order(epoch)
        finished: list[Metrics] = []
        with tqdm(
            total=self.steps * self.config.batch_size,
            desc=f'epoch {epoch}/{self.config.epochs}',
            unit=' images',
            leave=False,
            disable=None if leads() else True,
        ) as bar:
            running: list[tuple[Metrics, int]] = []
            for first in range(0, self.steps, self.chunk):
                state, metrics = train_steps(
                    state,
                    self.data,
                    order[first : first + self.chunk],
                    self.key,
                    task=self.task,
                )
                alone_on_cpu(metrics)
                # Waits for the call before this one, so that the devices never do.
                finished += [self.show(bar, *call) for call in running]
                running = [(metrics, (epoch - 1) * self.steps + first)]
            finished += [self.show(bar, *call) for call in running]
        rate = self.steps * self.config.batch_size / (time.perf_counter() - start)
        loss, correct, count = (sum(sums) for sums in zip(*finished, strict=True))
        if not count:
            raise NonFiniteError(f'no step of epoch {epoch} is finite')
        test = jax.device_get(self.evaluate(state))
        line = {
            'epoch': epoch,
            'train_loss': float(loss) / int(count),
            'train_accuracy': int(correct) / int(count),
            'test_loss': float(test.loss) / int(test.count),
            'test_accuracy': int(test.correct) / int(test.count),
            'test_correct': int(test.correct),
            'test_count': int(test.count),
            'images_per_second': rate,
            'seconds': time.perf_counter() - start,
        }
        if skipped := self.steps - int(count) // self.config.batch_size:
            line['skipped_steps'] = skipped
        check_losses(line)
        return state, line

    def show(self, bar: Any, metrics: Metrics, before: int) -> Metrics:
        """Waits for the metrics of a call, `before` steps into the run, and shows them.

        Raises:
          NonFiniteError: if a loss is not finite, unless such steps are skipped.
        """
        metrics = jax.device_get(metrics)
        count, images = int(metrics.count), self.chunk * self.config.batch_size
        if count < images and not self.task.skip_non_finite:
            step = before + count // self.config.batch_size + 1
            raise NonFiniteError(f'the loss of step {step} is infinite or NaN')
        bar.set_postfix(
            loss=f'{metrics.loss / max(count, 1):.3f}',
            accuracy=f'{metrics.correct / max(count, 1):.1%}',
            refresh=False,
        )
        bar.update(images)
        return metrics
