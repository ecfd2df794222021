"""Where in a text each step's windows start: steps × batch, int32.

A window of L tokens at `start` is told the tokens start … start + L - 1 and asked for
start + 1 … start + L.
"""

import numpy as np


def steps_in(count: int, batch: int, length: int) -> int:
    """Steps of an epoch on `count` tokens; 0 if they do not fill a batch."""
    # The last window asks for one token more, and the shift takes up to L - 1.
    return max(0, (count - length) // length // batch)


def epoch_starts(
    seed: int, epoch: int, *, count: int, batch: int, length: int, carried: bool
) -> np.ndarray:
    """The windows of an epoch, which is cut up to `length` tokens further on.

    Args:
      seed: of the run.
      epoch: its number; each has its own order and shift.
      count: tokens of the text.
      batch: windows in a step.
      length: tokens in a window.
      carried: whether each row goes on where the one before it ended, as networks
        need that carry their state along; else windows come in random order.
    """
    rng = np.random.default_rng([seed, epoch])
    shift = rng.integers(length)
    steps = steps_in(count, batch, length)
    if carried:
        order = np.arange(steps * batch).reshape(batch, steps).T
    else:
        windows = rng.permutation((count - length) // length)
        order = windows[: steps * batch].reshape(steps, batch)
    return (shift + length * order).astype(np.int32)


def whole_text(count: int, batch: int, length: int) -> np.ndarray:
    """Windows that ask for every token but the first, once.

    Each row goes on where the one before it ended. The last windows may start past
    the end.
    """
    steps = -(-(count - 1) // (batch * length))
    starts = length * np.arange(steps * batch, dtype=np.int32)
    return starts.reshape(batch, steps).T
