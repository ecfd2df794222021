"""Several processes of one run: as experiments/cifar is started on several machines."""

import dataclasses
import json
import shutil
import socket

import jax
import kills
import numpy as np
import pytest
from devices import cpu_devices
from jax.experimental import multihost_utils

from experiments.cifar import train as cifar
from experiments.cifar.config import Config as CifarConfig
from experiments.lab import processes
from experiments.lab.cli import UserError
from experiments.lm import train as lm
from experiments.lm.config import Config as LmConfig


def start_two(config, cache, *, second=None, **arguments):
    """Starts a run on two processes of four devices each, told the same or not."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    return [
        kills.start(
            told,
            cache,
            environment={
                **cpu_devices(4),
                'JAX_COORDINATOR_ADDRESS': address,
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': str(index),
            },
            **arguments,
        )
        for index, told in enumerate((config, second or config))
    ]


def exit_codes(*started):
    for process in started:
        process.join()
    return [process.exitcode for process in started]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_any_devices_go_on_with_it(tmp_path):
    one, two, four = (
        kills.small(tmp_path / name, optimizer='diffgrad+noise', epochs=3)
        for name in ('one', 'two', 'four')
    )
    cache = tmp_path / 'cache'
    assert exit_codes(kills.start(one, cache, environment=cpu_devices(8))) == [0]
    expected = kills.metrics(one.out_dir)

    elsewhere = dataclasses.replace(two, data_dir=tmp_path)  # as another machine has it
    assert exit_codes(*start_two(two, cache, second=elsewhere)) == [0, 0]
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


@pytest.mark.slow
def test_a_refusal_ends_every_process(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'thesis.tex').touch()
    started = start_two(kills.small(tmp_path / 'run'), tmp_path / 'cache')
    assert exit_codes(*started) == [2, 2]
    assert [file.name for file in (tmp_path / 'run').iterdir()] == ['thesis.tex']


@pytest.mark.slow
def test_processes_that_were_told_different_things_are_refused(tmp_path):
    first = kills.small(tmp_path / 'run', learning_rate=0.1)
    second = kills.small(tmp_path / 'run', learning_rate=1e-4)
    started = start_two(first, tmp_path / 'cache', second=second)
    assert exit_codes(*started) == [2, 2]
    assert not (tmp_path / 'run').exists()


@pytest.fixture
def second_of_two(monkeypatch):
    """Makes this the second of two tasks of Slurm, and changes what the first says."""
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    monkeypatch.setattr(
        multihost_utils,
        'process_allgather',
        lambda letters: np.stack([np.zeros_like(letters), letters]),
    )
    changes = {}
    for module in (processes, cifar):
        monkeypatch.setattr(
            module, 'by_leader', lambda action: (action() or {}) | changes
        )
    return changes


@pytest.mark.parametrize(
    ('trainer', 'config'), [(cifar, CifarConfig()), (lm, LmConfig())]
)
def test_every_setting_is_compared_before_anything_is_done(
    trainer, config, second_of_two
):
    for name, value in vars(config).items():
        if name == 'data_dir':
            continue
        second_of_two.clear()
        second_of_two[name] = 'other'
        with pytest.raises(UserError) as refusal:
            trainer.train(config)
        assert str(refusal.value) == (
            f'{name} is other on process 0 and {value} on process 1: give all '
            'processes of a run the same settings and data, or, to start several '
            'runs, unset SLURM_STEP_NUM_TASKS (under Slurm, make each run a job step '
            'of one task: srun -n1)'
        )


@pytest.mark.parametrize(
    ('trainer', 'config'), [(cifar, CifarConfig()), (lm, LmConfig())]
)
def test_data_are_compared_before_anything_is_written(
    trainer, config, second_of_two, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    second_of_two['data_checksum'] = 'other'
    with pytest.raises(UserError, match='data_checksum is other on process 0 and '):
        trainer.train(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('second_of_two')
def test_what_one_process_refuses_all_do(monkeypatch):
    said = np.zeros((2, 2000), np.uint8)
    said[1, :4] = list(b'no x')
    monkeypatch.setattr(multihost_utils, 'process_allgather', lambda _: said)
    with pytest.raises(UserError, match='no x'):
        processes.by_all(lambda: None)


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


@pytest.mark.parametrize('launcher', processes.LAUNCHERS)
@pytest.mark.parametrize('count', ['two', '', '2.0', '-1'])
def test_a_launcher_that_counts_no_processes_is_refused(monkeypatch, launcher, count):
    monkeypatch.setenv(launcher, count)
    with pytest.raises(UserError, match=f'{launcher}={count} must be a number'):
        processes.connect()


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


def test_a_part_of_slurms_variables_is_to_be_unset(monkeypatch):
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
    with pytest.raises(UserError, match='or unset SLURM_STEP_NUM_TASKS to run as one'):
        processes.connect()
