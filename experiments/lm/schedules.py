"""How the learning rate goes over a run, by name: functions of the step's number."""

import functools
from collections.abc import Callable

import optax

from experiments.lab.schedules import Length, constant


def cosine(rate: float, length: Length) -> optax.Schedule:
    """Up from zero over a twentieth of the steps, then a cosine down to a tenth."""
    steps = length.epochs * length.steps
    warmup = max(1, steps // 20)
    return optax.warmup_cosine_decay_schedule(
        rate / warmup, rate, warmup, max(warmup + 1, steps), rate / 10
    )


def drops(rate: float, length: Length) -> optax.Schedule:
    """A tenth from epoch 100 of 200, a hundredth from 145, and so in proportion.

    From whole epochs, the first with the whole rate.
    """
    first = max(1, length.epochs * 100 // 200)
    second = max(first + 1, length.epochs * 145 // 200)
    return optax.piecewise_constant_schedule(
        rate, {first * length.steps: 0.1, second * length.steps: 0.1}
    )


SCHEDULES: dict[str, Callable[[float, Length], optax.Schedule]] = {
    f.__name__: f for f in (cosine, drops, constant)
}


# One object for equal arguments, so that equal runs share a compilation.
@functools.cache
def make_rate(name: str, rate: float, length: Length) -> optax.Schedule:
    """The schedule `name`, with `rate` as its largest."""
    return SCHEDULES[name](rate, length)
