"""Timing several things side by side."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SAMPLES = 3  # of each arm in a round, after one that is not kept
LONGEST = 0.5  # seconds of a sample of more than one call
# Before a turn, in seconds: threads of PyTorch on a CPU wait busily for a while.
PAUSE = 0.3


class Running(NamedTuple):
    """Something to be timed, with the memory that it needs."""

    call: Callable[[], object]  # may return before the device is done
    wait: Callable[[], object]  # until it is
    repeats: int = 1  # how often a call does what is timed


Arm = Callable[[], Running]


def interleave(
    arms: Mapping[Any, Arm], *, rounds: int, calls: int
) -> dict[Any, list[float]]:
    """Seconds of a call of each arm, every sample.

    The arms take turns, round by round, so that all meet the same disturbances, and
    only one holds memory at a time.

    Args:
      arms: what to time.
      rounds: how often each has its turn, of `SAMPLES` samples.
      calls: in a sample, without a wait between them, as a training loop calls; a
        sample is their mean. An arm that repeats itself is called less often, and so
        is one that would take longer than `LONGEST`.
    """
    times: dict[Any, list[float]] = {key: [] for key in arms}
    for _ in range(rounds):
        for key, arm in arms.items():
            time.sleep(PAUSE)
            times[key] += turn(arm, calls)
            gc.collect()
    return times


def turn(arm: Arm, calls: int) -> list[float]:
    """The samples of one turn, warm; its memory is free afterwards."""
    running = arm()

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            running.call()
        running.wait()
        return (time.perf_counter() - start) / count

    count = calls // running.repeats
    if count > 1:
        seconds(1)
        count = max(1, min(count, int(LONGEST / seconds(1))))
    samples = [seconds(count) / running.repeats for _ in range(1 + SAMPLES)]
    return samples[1:]
