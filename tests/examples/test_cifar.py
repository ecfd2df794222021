"""examples/cifar.py: the network, the files, the resumed run, the verdict."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from devices import cpu_devices
from flax import nnx

from examples import cifar

ROOT = Path(__file__).parents[2]
SMALL = [
    *('--stages', '1', '--width', '4'),
    *('--batch-size', '256', '--learning-rate', '0.01'),
]
DIES = """
import os, signal, sys
from examples import cifar
calls, count = [], cifar.count_correct
def trap(*arguments):
    calls.append(None)
    if len(calls) == 5:  # in the third epoch, which has two batches to test
        os.kill(os.getpid(), signal.SIGKILL)
    return count(*arguments)
cifar.count_correct = trap
cifar.run(cifar.parse(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ('dataset', 'expected'), [('cifar10', 23_520_842), ('cifar100', 23_705_252)]
)
def test_the_network_has_the_parameters_of_the_papers_resnet50(dataset, expected):
    settings = cifar.parse(['--dataset', dataset])
    model = nnx.eval_shape(lambda: cifar.make_model(settings, 0))
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in params) == expected


def test_bfloat16_is_for_activations_alone():
    settings = cifar.parse([*SMALL, '--precision', 'bfloat16'])
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)

    def forward(images):
        model = cifar.make_model(settings, 0)
        arrays = nnx.as_pure(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        return arrays, model(images), model.stem(images.astype(jnp.float32))

    arrays, logits, activations = jax.eval_shape(forward, images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(arrays)} == {'float32'}
    assert logits.dtype == jnp.float32
    assert activations.dtype == jnp.bfloat16


@pytest.mark.slow
def test_several_steps_in_a_call_are_those_of_single_calls():
    settings = cifar.parse(SMALL)
    data = jax.tree.map(jnp.asarray, cifar.load(settings))
    optimizer = cifar.make_optimizer(settings, 'diffgrad', 100)
    order = jnp.arange(3 * 64).reshape(3, 64)
    graphdef, *arrays = nnx.split(
        cifar.make_model(settings, 0), nnx.Param, nnx.BatchStat
    )

    def train(calls):
        params, stats = jax.tree.map(jnp.copy, [*map(nnx.as_pure, arrays)])
        state = cifar.TrainState(params, stats, optimizer.init(params), jnp.int32(0))
        for rows in calls:
            key = jax.random.key(0)
            state, loss = cifar.train_steps(state, data, rows, key, graphdef, optimizer)
        return state, loss

    (single, _), (scanned, loss) = train(order[:, None]), train([order])
    assert int(scanned.step) == int(single.step) == 3
    assert 1 < float(loss) < 4
    for one, other in zip(*map(jax.tree.leaves, (single, scanned)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('padding, channels', [(1, 1), (4, 3)])
def test_a_crop_is_a_part_of_the_padded_image_and_digits_are_never_mirrored(
    padding, channels
):
    size = 8
    image = np.arange(1, size * size * channels + 1, dtype=np.int32)
    image = image.reshape(size, size, channels)
    pad = (padding, padding)
    ways = [image] if channels == 1 else [image, image[:, ::-1]]
    crops = {
        np.pad(way, (pad, pad, (0, 0)))[i : i + size, j : j + size].tobytes()
        for way in ways
        for i in range(2 * padding + 1)
        for j in range(2 * padding + 1)
    }
    batch = jnp.repeat(jnp.asarray(image)[None], 400, axis=0)
    augmented = np.asarray(cifar.augment(batch, jax.random.key(0)))
    seen = {crop.tobytes() for crop in augmented}
    assert seen <= crops
    assert len(seen) > len(crops) / 2


def write_cifar10(folder, *, short=0):
    """Files of black images of class 0, but for the first record of each."""
    for name in (*cifar.BATCHES, 'test_batch.bin'):
        record = np.arange(3073, dtype=np.uint16).astype(np.uint8)
        record[0] = 7
        with (folder / name).open('wb') as file:
            file.write(record.tobytes())
            file.truncate(10_000 * 3073 - short)
    return record


def test_binary_files_are_read_with_channels_last(tmp_path):
    record = write_cifar10(tmp_path)
    arguments = ['--dataset', 'cifar10', '--data-dir', str(tmp_path)]
    images, labels, test_images, test_labels = cifar.load(cifar.parse(arguments))
    assert images.shape == (50_000, 32, 32, 3)
    assert test_images.shape == (10_000, 32, 32, 3)
    planes = record[1:].reshape(3, 32, 32)
    for channel in range(3):
        np.testing.assert_array_equal(images[0, :, :, channel], planes[channel])
    assert labels[[0, 1, 10_000]].tolist() == [7, 0, 7]
    assert test_labels[:2].tolist() == [7, 0]


def test_missing_and_truncated_files_are_refused_in_one_line(tmp_path):
    settings = cifar.parse(['--dataset', 'cifar10', '--data-dir', str(tmp_path)])
    for words in ('binary version', 'of 50000 images with labels below 10'):
        with pytest.raises(SystemExit, match=words) as refused:
            cifar.load(settings)
        assert '\n' not in str(refused.value)
        write_cifar10(tmp_path, short=1)


def test_a_run_writes_its_results_and_refuses_other_settings_in_their_folder(
    tmp_path, capsys
):
    arguments = [*SMALL, '--epochs', '2', '--out-dir', str(tmp_path / 'run')]
    results = cifar.run(cifar.parse(arguments))
    history = results['diffgrad'][0]
    correct = history[:, 1] * 3.6  # of 360 images
    np.testing.assert_allclose(correct, np.round(correct), atol=1e-9)
    assert history[1, 0] < history[0, 0]
    written = {
        path: path.read_bytes()
        for path in (tmp_path / 'run').glob('*')
        if path.is_file()
    }
    assert {path.name for path in written} == {
        'curves.png',
        'settings.json',
        'table.md',
    }
    with pytest.raises(SystemExit, match='must be new or of these settings'):
        cifar.run(cifar.parse([*arguments, '--width', '8']))
    assert {path: path.read_bytes() for path in written} == written
    repeated = cifar.run(cifar.parse(arguments))
    np.testing.assert_array_equal(repeated['diffgrad'], results['diffgrad'])
    assert 'diffgrad seed 0' in capsys.readouterr().out


def test_a_batch_larger_than_the_data_is_refused_and_nothing_is_written(tmp_path):
    arguments = ['--batch-size', '1438', '--out-dir', str(tmp_path / 'run')]
    with pytest.raises(SystemExit, match='--batch-size 1438 must be at most 1437'):
        cifar.run(cifar.parse(arguments))
    assert not (tmp_path / 'run').exists()


def start(tmp_path, *command, devices=1):
    cache = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'), 'PYTHONPATH': '.'}
    environment = os.environ | cpu_devices(devices) | cache
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def last_state(folder):
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        state, history = manager.restore(step, args=ocp.args.StandardRestore())
    return step, jax.tree.leaves(state), np.asarray(history)[:, :2]  # without times


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    arguments = [*SMALL, '--epochs', '4', '--out-dir']
    assert start(tmp_path, 'examples/cifar.py', *arguments, whole).returncode == 0
    assert start(tmp_path, '-c', DIES, *arguments, killed).returncode < 0
    assert any((killed / 'diffgrad-seed0' / step).exists() for step in ('1', '2'))
    assert start(tmp_path, 'examples/cifar.py', *arguments, killed).returncode == 0
    expected, result = (last_state(path / 'diffgrad-seed0') for path in (whole, killed))
    assert result[0] == expected[0] == 4
    for one, other in zip(result[1], expected[1], strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    np.testing.assert_array_equal(result[2], expected[2])


@pytest.mark.slow
def test_a_batch_on_two_devices_gives_the_result_of_one(tmp_path):
    losses = []
    for devices in (1, 2):
        arguments = [*SMALL, '--epochs', '1', '--out-dir', tmp_path / str(devices)]
        done = start(tmp_path, 'examples/cifar.py', *arguments, devices=devices)
        assert f'{devices} × cpu' in done.stdout
        losses.append(float(re.search(r'loss (\S+),', done.stdout)[1]))
    np.testing.assert_allclose(*losses, rtol=1e-3)


def histories(*accuracies):
    """Runs of one epoch with these test accuracies, shaped seeds × epochs × 3."""
    return np.array([[[0.1, accuracy, 100.0]] for accuracy in accuracies])


def test_the_verdict_is_by_paired_differences():
    results = {
        'adam': histories(90.0, 95.0, 85.0),
        'diffgrad': histories(91.0, 96.1, 85.9),  # one point more with every seed
        'adam-half': histories(94.0, 90.0, 86.0),
    }
    text = cifar.table(results, 3)
    assert 'adam − diffgrad: -1.00 (95%: -1.25 to -0.75): diffgrad is better' in text
    (line,) = (
        line for line in text.splitlines() if line.startswith('adam − adam-half')
    )
    assert line.endswith('no difference beyond the seeds')
    assert '| adam | 90.00 ± 5.00 | 0.1000 ± 0.0000 | 100 |' in text


def test_one_seed_gives_no_verdict():
    text = cifar.table({'adam': histories(90.0), 'diffgrad': histories(10.0)}, 1)
    assert 'better' not in text
    assert '| adam | 90.00 ± 0.00 |' in text
