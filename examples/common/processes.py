"""One run on several processes, by `jax.distributed`.

Every process runs the same program on devices of its own. What is written for people
is written by process 0, which decides what happens to files, and tells the others.
"""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from examples.common.cli import UserError

Results = TypeVar('Results')

VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')

# How many processes a launcher that JAX asks by itself has started.
LAUNCHERS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def connect() -> None:
    """Joins the other processes, if the environment says that there are any.

    That is, if JAX_COORDINATOR_ADDRESS (`host:port` of process 0), JAX_NUM_PROCESSES
    and JAX_PROCESS_ID are set, or if Slurm or Open MPI started several. To be called
    before JAX is asked for anything else; once more does nothing.

    Raises:
      UserError: if the environment says too little or the others are out of reach.
    """
    if jax.distributed.is_initialized():
        return
    given = [name for name in VARIABLES if name in os.environ]
    if len(given) == len(VARIABLES):
        arguments = from_environment()
    elif any(int(os.environ.get(name, '1')) > 1 for name in LAUNCHERS):
        arguments = {}
    elif given:
        missing = ' and '.join(name for name in VARIABLES if name not in given)
        raise UserError(
            f'{" and ".join(given)} without {missing}: set all three, or none to run '
            'as one process'
        )
    else:
        return
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'could not join the other processes ({reason:.300}): start all of them '
            f'with the same {VARIABLES[0]} and {VARIABLES[1]}, each with its own '
            f'{VARIABLES[2]}'
        ) from error


def from_environment() -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize` that VARIABLES hold."""
    address, *numbers = (os.environ[name] for name in VARIABLES)
    try:
        count, index = map(int, numbers)
    except ValueError:
        index = count = -1
    if not 0 <= index < count or not address.rpartition(':')[2].isdecimal():
        said = ', '.join(f'{name}={os.environ[name]}' for name in VARIABLES)
        raise UserError(
            f'{said} cannot be: give host:port of process 0, how many processes there '
            'are, and which of them, from 0, this is'
        )
    return {
        'coordinator_address': address,
        'num_processes': count,
        'process_id': index,
    }


def leads() -> bool:
    """Whether this is process 0, which alone prints, logs and draws."""
    return jax.process_index() == 0


def silent(line: str) -> None:
    """What all processes but the first say."""


def alone_on_cpu(results: Results) -> Results:
    """`results`, waited for on a CPU.

    Forced devices share a CPU's threads, and two calls of them that overlap can wait
    for each other for good.
    """
    if jax.default_backend() == 'cpu':
        jax.block_until_ready(results)
    return results


def by_leader(action: Callable[[], Any]) -> Any:
    """What `action` returns on process 0, the only one that runs it, on all of them.

    To be called by all processes. What is returned goes through JSON.

    Raises:
      UserError: on all processes, if `action` raises one.
    """
    if jax.process_count() == 1:
        return action()
    answer = b''
    if leads():
        try:
            answer = json.dumps({'returned': action()}).encode()
        except UserError as error:
            answer = json.dumps({'refused': str(error)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(answer))))
    letters = np.zeros(size, np.uint8)
    letters[: len(answer)] = np.frombuffer(answer, np.uint8)
    told = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(letters))))
    if 'refused' in told:
        raise UserError(told['refused'])
    return told['returned']
