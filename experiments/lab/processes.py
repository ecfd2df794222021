"""One run on several processes, by `jax.distributed`.

Every process runs the same program on devices of its own. What is written for people
is written by process 0, which decides what happens to files, and tells the others.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.lab.cli import UserError

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
    joined = joined_by()
    if not joined and given:
        missing = ' and '.join(name for name in VARIABLES if name not in given)
        raise UserError(
            f'{" and ".join(given)} without {missing}: set all three, or none to run '
            'as one process'
        )
    if not joined:
        return
    arguments = from_environment() if joined == VARIABLES else {}
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'could not join the other processes ({reason:.300}): start all of them '
            f'with the same {VARIABLES[0]} and {VARIABLES[1]}, each with its own '
            f'{VARIABLES[2]}, or unset {" and ".join(joined)} to run as one process'
        ) from error


def joined_by() -> tuple[str, ...]:
    """The variables that make this process one of several; unset, it is alone."""
    if all(name in os.environ for name in VARIABLES):
        return VARIABLES
    return tuple(name for name in LAUNCHERS if tasks(name) > 1)


def tasks(launcher: str) -> int:
    """How many processes a launcher has started, by its variable."""
    count = os.environ.get(launcher, '1')
    if not count.isdecimal():
        raise UserError(f'{launcher}={count} must be a number of processes: unset it')
    return int(count)


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


def by_all(action: Callable[[], Results]) -> Results:
    """What `action` returns here, when it has ended on every process.

    To be called by all processes.

    Raises:
      UserError: on all processes, if `action` raises one on any.
    """
    if jax.process_count() == 1:
        return action()
    refusal = ''
    try:
        results = action()
    except UserError as error:
        refusal = str(error)
    letters = np.zeros(2000, np.uint8)
    cut = np.frombuffer(refusal.encode(), np.uint8)[: len(letters)]
    letters[: len(cut)] = cut
    for row in multihost_utils.process_allgather(letters):
        if said := bytes(row).rstrip(b'\0'):
            raise UserError(said.decode(errors='ignore'))
    return results


def check_alike(told: Mapping[str, Any]) -> None:
    """Refuses to go on if processes of one run were told different things.

    To be called by all processes.

    Raises:
      UserError: on all processes, naming the first difference.
    """
    mine = {name: str(value) for name, value in told.items()}
    first = by_leader(lambda: mine)

    def compare() -> None:
        for name, value in mine.items():
            if value != first[name]:
                raise UserError(
                    f'{name} is {first[name]} on process 0 and {value} on process '
                    f'{jax.process_index()}: give all processes of a run the same '
                    'settings and data, or, to start several runs, unset '
                    f'{" and ".join(joined_by())} (under Slurm, make each run a job '
                    'step of one task: srun -n1)'
                )

    by_all(compare)
