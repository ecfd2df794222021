"""Several processes of one run: as examples/cifar is started on several machines."""

import json
import shutil
import socket

import jax
import kills
import numpy as np
import pytest
from devices import cpu_devices

from examples.common import processes
from examples.common.cli import UserError


def start_two(config, cache, **arguments):
    """Starts a run on two processes of four devices each."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    return [
        kills.start(
            config,
            cache,
            environment={
                **cpu_devices(4),
                'JAX_COORDINATOR_ADDRESS': address,
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': str(index),
            },
            **arguments,
        )
        for index in range(2)
    ]


def exit_codes(*started):
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def test_two_processes_make_the_run_of_one_and_any_devices_go_on_with_it(tmp_path):
    one, two, four = (
        kills.small(tmp_path / name, optimizer='diffgrad+noise', epochs=3)
        for name in ('one', 'two', 'four')
    )
    cache = tmp_path / 'cache'
    assert exit_codes(kills.start(one, cache, environment=cpu_devices(8))) == [0]
    expected = kills.metrics(one.out_dir)

    assert exit_codes(*start_two(two, cache)) == [0, 0]
    record = json.loads((two.out_dir / 'config.json').read_text())
    assert (len(record['devices']), record['processes']) == (8, 2)
    assert_close(kills.metrics(two.out_dir), expected)

    # Both go on from a state that two processes wrote after the second epoch.
    shutil.copytree(two.out_dir, four.out_dir)
    for path in (two.out_dir, four.out_dir):
        shutil.rmtree(path / 'checkpoints' / '3')
    four_devices = kills.start(four, cache, environment=cpu_devices(4))
    assert exit_codes(four_devices, *start_two(two, cache)) == [0, 0, 0]
    for path in (two.out_dir, four.out_dir):
        assert_close(kills.metrics(path), expected)
        dropped = (path / 'dropped.jsonl').read_text().splitlines()
        assert [json.loads(line)['epoch'] for line in dropped] == [3]


def assert_close(lines, expected):
    """Sums over the devices are taken in another order, in float32."""
    assert len(lines) == len(expected)
    for line, other in zip(lines, expected, strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-5, err_msg=name)


def test_a_refusal_ends_every_process(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'thesis.tex').touch()
    started = start_two(kills.small(tmp_path / 'run'), tmp_path / 'cache')
    assert exit_codes(*started) == [2, 2]
    assert [file.name for file in (tmp_path / 'run').iterdir()] == ['thesis.tex']


def test_one_process_leads_and_asks_nobody():
    assert processes.leads()
    marker = object()
    assert processes.by_leader(lambda: marker) is marker
    processes.connect()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ('environment', 'said'),
    [
        (('host:1', None, None), 'JAX_COORDINATOR_ADDRESS without JAX_NUM_PROCESSES'),
        ((None, '2', '0'), 'without JAX_COORDINATOR_ADDRESS: set all three'),
        (('host:1', '2', '2'), 'JAX_PROCESS_ID=2 cannot be'),
        (('host:1', '2', '-1'), 'JAX_PROCESS_ID=-1 cannot be'),
        (('host:1', 'two', '0'), 'JAX_NUM_PROCESSES=two'),
        (('host', '2', '0'), 'JAX_COORDINATOR_ADDRESS=host,'),
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch, environment, said):
    for name, value in zip(processes.VARIABLES, environment, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said) as refusal:
        processes.connect()
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize(
    ('environment', 'arguments'),
    [
        (
            dict(zip(processes.VARIABLES, ('host:1', '3', '2'), strict=True)),
            {'coordinator_address': 'host:1', 'num_processes': 3, 'process_id': 2},
        ),
        ({'SLURM_STEP_NUM_TASKS': '2'}, {}),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, {}),
        ({'SLURM_STEP_NUM_TASKS': '1', 'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ],
)
def test_jax_is_told_what_it_does_not_find_itself(monkeypatch, environment, arguments):
    told = []
    monkeypatch.setattr(
        jax.distributed, 'initialize', lambda **kwargs: told.append(kwargs)
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.connect()
    assert told == ([] if arguments is None else [arguments])


def test_a_failure_to_join_is_one_line(monkeypatch):
    def initialize():
        raise RuntimeError('DEADLINE_EXCEEDED:\nnobody there')

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
    with pytest.raises(UserError, match='DEADLINE_EXCEEDED: nobody there') as refusal:
        processes.connect()
    assert '\n' not in str(refusal.value)
