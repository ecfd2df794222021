"""experiments/cifar as people run it: files, interruptions, refusals, comparisons."""

import dataclasses
import functools
import itertools
import json
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments.cifar import compare, epochs, files, plan, train
from experiments.cifar.model import MODELS
from experiments.cifar.resnet import BasicBlock, ResNet
from experiments.cifar.train import Config
from experiments.lab import cli, report, schedules
from experiments.lab.cli import UserError
from experiments.lab.divergence import DivergedError
from experiments.lab.optimizer_parts import BASES, MODIFIERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def user_defaults(monkeypatch):
    """As users run the example, but with two blocks, which compile fast."""
    monkeypatch.setitem(MODELS, 'tiny', functools.partial(ResNet, BasicBlock, (1, 1)))
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def config(path, **changes):
    arguments = {
        'model': 'tiny',
        'width': 4,
        'epochs': 3,
        'batch_size': 64,
        'limit_train': 128,
        'limit_test': 50,
        'optimizer': 'diffgrad',
        'out_dir': path,
    }
    return Config(**arguments | changes)


def arrays(path, epoch):
    """The arrays of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((path / 'checkpoints' / str(epoch)).absolute())


def without_times(metrics):
    """What a run decides, in contrast to the machine that it runs on."""
    times = ('seconds', 'images_per_second')
    return [{k: v for k, v in line.items() if k not in times} for line in metrics]


def contents(path):
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob('*')
        if file.is_file()
    }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run that was never stopped, and what it said."""
    path = tmp_path_factory.mktemp('finished') / 'run'
    said = []
    MODELS['tiny'] = functools.partial(ResNet, BasicBlock, (1, 1))
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        result = train.train(config(path), say=said.append)
    return result, '\n'.join(said)


def test_a_run_says_what_it_found_and_how_it_went(finished):
    result, said = finished
    assert 'data       digits from scikit-learn: 128 training and 50 test' in said
    assert 'diffgrad, batch 64' in said
    assert said.count('epoch   ') == 3
    last = said.splitlines()[-1]
    assert f'({result.correct} of 50); everything is in {result.out_dir}' in last


def test_a_run_leaves_its_configuration_metrics_picture_and_checkpoints(finished):
    result, _ = finished
    record = json.loads((result.out_dir / 'config.json').read_text())
    assert record['settings']['optimizer'] == 'diffgrad'
    assert {'jax', 'optax', 'diffgrad-optax'} <= record['versions'].keys()
    lines = (result.out_dir / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['epoch'] for line in lines] == [1, 2, 3]
    last = json.loads(lines[-1])
    assert last['test_accuracy'] == last['test_correct'] / last['test_count']
    assert (result.out_dir / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert arrays(result.out_dir, 3)['step'] == 6


@pytest.mark.parametrize('moment', ['train_steps', 'evaluate', 'save'])
def test_an_interrupted_run_goes_on_bit_for_bit(
    finished, tmp_path, monkeypatch, moment
):
    result, _ = finished
    path = tmp_path / 'run'

    def interrupted_at(function, count):
        calls = []

        def wrapper(*args, **kwargs):
            calls.append(None)
            if len(calls) == count:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == 'save':
            # After the line of epoch 2, before its checkpoint.
            checkpointer = ocp.StandardCheckpointer
            patch.setattr(checkpointer, 'save', interrupted_at(checkpointer.save, 2))
        elif moment == 'evaluate':
            # The first call compiles, the second ends epoch 1.
            patch.setattr(epochs, 'evaluate', interrupted_at(epochs.evaluate, 3))
        else:
            # One call compiles, two make epoch 1.
            patch.setattr(epochs, 'train_steps', interrupted_at(epochs.train_steps, 5))
        train.train(config(path), say=lambda line: None)
    said = []
    again = train.train(config(path), say=said.append)
    assert 'continues  after epoch 1 of 3' in said
    assert without_times(again.metrics) == without_times(result.metrics)
    lines = (path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == again.metrics
    chex.assert_trees_all_equal(arrays(path, 3), arrays(result.out_dir, 3))


# Everything at once: a state with keys, two sets of weights, a rate that it holds.
MIXTURE = 'radamw+nesterov+noise+lr_dropout+lookahead'


def rewound(path, copy, epoch):
    """A copy of a finished run as it was after `epoch`."""
    shutil.copytree(path, copy)
    for checkpoint in (copy / 'checkpoints').iterdir():
        if checkpoint.name.isdigit() and int(checkpoint.name) > epoch:
            shutil.rmtree(checkpoint)


def test_the_mixture_learns_digits_to_95_percent_and_goes_on_bit_for_bit(tmp_path):
    settings = {
        'model': 'cnn',
        'width': 8,
        'optimizer': MIXTURE,
        'learning_rate': 0.02,
        'batch_size': 32,
        'epochs': 24,
        'checkpoint_every': 20,
        'limit_train': None,
        'limit_test': None,
    }
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    result = train.train(config(whole, **settings), say=lambda line: None)
    assert result.correct / result.count >= 0.95
    rewound(whole, part, 20)
    again = train.train(config(part, **settings), say=lambda line: None)
    assert again.trained == 4
    assert without_times(again.metrics) == without_times(result.metrics)
    assert_same_arrays(arrays(part, 24), arrays(whole, 24))


def test_a_plateau_is_remembered_when_a_run_goes_on(tmp_path, monkeypatch):
    # Every epoch is one without progress.
    monkeypatch.setattr(schedules, 'PLATEAU', schedules.rule_of_plateau(rtol=1.0))
    settings = {
        'model': 'mlp',
        'schedule': 'plateau',
        'optimizer': MIXTURE,
        'epochs': 7,
    }
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    result = train.train(config(whole, **settings), say=lambda line: None)
    state = arrays(whole, 7)
    np.testing.assert_allclose(optax.tree.get(state, 'learning_rate'), 1e-4, rtol=1e-5)
    rewound(whole, part, 6)
    again = train.train(config(part, **settings), say=lambda line: None)
    assert without_times(again.metrics) == without_times(result.metrics)
    assert_same_arrays(arrays(part, 7), state)


def assert_same_arrays(actual, expected):
    def numbers(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    chex.assert_trees_all_equal(
        jax.tree.map(numbers, actual), jax.tree.map(numbers, expected)
    )


def break_step(patch, *broken):
    """Divides the images of some steps by nothing; one call before them compiles."""
    calls, train_steps = itertools.count(), epochs.train_steps

    def wrapper(state, data, *args, **kwargs):
        if next(calls) in broken:
            data = data._replace(deviation=jnp.zeros_like(data.deviation))
        return train_steps(state, data, *args, **kwargs)

    patch.setattr(epochs, 'train_steps', wrapper)


def test_a_loss_that_is_no_number_stops_the_run_which_goes_on_if_told_to_skip(
    tmp_path, monkeypatch
):
    path, said = tmp_path / 'run', []
    settings = {'model': 'mlp', 'optimizer': 'sgd', 'epochs': 2}
    with monkeypatch.context() as patch:
        break_step(patch, 4)
        with pytest.raises(
            UserError,
            match=r'the loss of step 4 is infinite or NaN: the last good checkpoint is '
            r'.*/1\. Try a smaller --learning-rate .*, or --non-finite skip',
        ):
            train.train(config(path, **settings), say=said.append)
    assert [line['epoch'] for line in lines_of(path)] == [1]
    with monkeypatch.context() as patch:
        break_step(patch, 2)
        result = train.train(
            config(path, non_finite='skip', **settings), say=said.append
        )
    assert [line.get('skipped_steps') for line in result.metrics] == [None, 1]
    assert said[-2].endswith('1 steps not finite, skipped')
    assert np.isfinite([line['train_loss'] for line in result.metrics]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays(path, 2)))


@pytest.mark.parametrize('chunk', [1, 2])
def test_the_step_that_was_not_finite_is_named_inside_a_call_too(
    tmp_path, monkeypatch, chunk
):
    # The first step throws the weights out, and the second finds them there.
    monkeypatch.setattr(train, 'steps_per_call', lambda steps, backend: chunk)
    settings = {'model': 'mlp', 'optimizer': 'sgd', 'learning_rate': 1e38}
    with pytest.raises(UserError, match='the loss of step 2 is infinite or NaN'):
        train.train(config(tmp_path / 'run', **settings), say=lambda line: None)


def test_an_epoch_without_a_finite_step_stops_the_run_even_if_they_are_skipped(
    tmp_path, monkeypatch
):
    break_step(monkeypatch, 1, 2)
    with pytest.raises(UserError, match='no step of epoch 1 is finite: there is no'):
        train.train(
            config(tmp_path / 'run', model='mlp', optimizer='sgd', non_finite='skip'),
            say=lambda line: None,
        )


@pytest.mark.parametrize('non_finite', ['stop', 'skip'])
def test_a_network_that_the_last_step_destroys_has_diverged(tmp_path, non_finite):
    # Its weights are finite, so that only its test loss is not.
    settings = {'model': 'cnn', 'optimizer': 'sgd', 'learning_rate': 1e10}
    one_step = {'limit_train': 64, 'batch_size': 64, 'epochs': 1}
    path = tmp_path / 'run'
    with pytest.raises(DivergedError) as refusal:
        train.train(
            config(path, non_finite=non_finite, **settings, **one_step),
            say=lambda line: None,
        )
    assert refusal.value.reason == 'the test loss of epoch 1 is infinite or NaN'
    assert not (path / 'metrics.jsonl').exists()


@pytest.mark.parametrize('non_finite', ['stop', 'skip'])
def test_a_state_that_the_optimizer_spoils_stops_the_run(tmp_path, non_finite):
    settings = {'model': 'mlp', 'optimizer': 'adam+loss_scale=1e30'}
    with pytest.raises(DivergedError) as refusal:
        train.train(
            config(tmp_path / 'run', non_finite=non_finite, **settings),
            say=lambda line: None,
        )
    advice = {'stop': ', or --non-finite skip in this one', 'skip': ''}[non_finite]
    assert str(refusal.value).endswith(f'--learning-rate in another --out-dir{advice}')


def test_what_a_killed_download_leaves_is_not_taken_for_data(tmp_path):
    def fetch(directory):
        return sorted(file.name for file in directory.iterdir())

    # pooch gives a file its name when it is whole and its hash is right.
    (tmp_path / 'tmpx81b').write_bytes(b'half an archive')
    assert files.fetch_or_find(tmp_path, fetch, find=None) == ['tmpx81b']


def lines_of(path):
    lines = (path / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_finished_run_is_reported_and_not_repeated(finished, monkeypatch):
    result, _ = finished
    before = contents(result.out_dir / 'checkpoints')
    monkeypatch.setattr(epochs, 'train_steps', None)
    said = []
    again = train.train(config(result.out_dir), say=said.append)
    assert (again.correct, again.metrics) == (result.correct, result.metrics)
    assert said[-1].startswith('test accuracy')
    assert contents(result.out_dir / 'checkpoints') == before


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'epochs': 4}, r'holds a run with epochs=3 \(now 4\)'),
        ({'friction': 'dfc2'}, r'friction=None \(now dfc2\)'),
        ({'limit_test': 40}, r'limit_test=50 \(now 40\), data_checksum='),
        ({'resume': False}, 'already holds a run'),
        ({'optimizer': 'adamm'}, "'adamm' is unknown. A base is one of sgd"),
        ({'batch_size': 129}, '129 is larger than the 128 training images'),
        ({'batch_size': 0}, '--batch-size 0 must be at least 1'),
        ({'epochs': 0}, '--epochs 0 must be at least 1'),
        ({'epochs': 2**31}, '--epochs 2147483648 must be at most 2147483647'),
        (
            {'epochs': 2**30},
            '--epochs 1073741824 of 2 steps must be at most 1073741823',
        ),
        ({'seed': 2**32}, '--seed 4294967296 must be in'),
        ({'limit_train': 2000}, '2000 is more than the 1437 images'),
    ],
)
def test_a_wrong_run_is_refused_and_nothing_is_overwritten(finished, changes, said):
    result, _ = finished
    before = contents(result.out_dir)
    with pytest.raises(UserError, match=said) as refusal:
        train.train(config(result.out_dir, **changes))
    assert '\n' not in str(refusal.value)
    assert contents(result.out_dir) == before


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('all there is')
    with pytest.raises(UserError, match='is not empty and holds no run'):
        train.train(config(tmp_path))
    assert list(contents(tmp_path).values()) == [b'all there is']


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        train.train(config(tmp_path / 'file' / 'run'))


def copied(result, path):
    for name, data in contents(result.out_dir).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        ('metrics', 'metrics.jsonl is damaged'),
        ('a line', 'metrics.jsonl is damaged'),
        ('config', 'config.json is no configuration'),
        ('checkpoint', r'no checkpoint in .* is as it was written: 3 \('),
    ],
)
def test_damaged_files_are_named_and_nothing_is_lost(finished, tmp_path, damage, said):
    path = copied(finished[0], tmp_path / 'run')
    if damage == 'metrics':
        (path / 'metrics.jsonl').write_text('{"epoch": 1\n')
    elif damage == 'a line':
        (path / 'metrics.jsonl').write_text('[1]\n{}\n')
    elif damage == 'config':
        (path / 'config.json').write_text('{"settings": 3}')
    else:
        for file in (path / 'checkpoints').rglob('*'):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:10])
    before = contents(path)
    with pytest.raises(UserError, match=said) as refusal:
        train.train(config(path))
    assert '\n' not in str(refusal.value)
    assert contents(path) == before


def test_metrics_without_their_checkpoint_are_set_aside(finished, tmp_path):
    path = copied(finished[0], tmp_path / 'run')
    shutil.rmtree(path / 'checkpoints')
    before = (path / 'metrics.jsonl').read_text()
    again = train.train(config(path), say=lambda line: None)
    assert (path / 'dropped.jsonl').read_text() == before
    assert without_times(again.metrics) == without_times(finished[0].metrics)


def test_lost_metrics_are_noticed(finished, tmp_path):
    path = copied(finished[0], tmp_path / 'run')
    metrics = path / 'metrics.jsonl'
    metrics.write_text(metrics.read_text().split('\n', 1)[1])
    with pytest.raises(UserError, match='has lost lines: 2 where'):
        train.train(config(path))
    assert len(metrics.read_text().splitlines()) == 2


def test_the_command_ends_with_one_line_and_status_2(tmp_path):
    run = subprocess.run(
        [sys.executable, '-m', 'experiments.cifar.train', '--optimzer', 'adam'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stdout == ''
    assert run.stderr == (
        'error: unrecognized arguments: --optimzer adam (--help lists everything)\n'
    )


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        (['--dataset', 'svhn'], "'--dataset|argument --dataset: invalid choice"),
        (['--batch-size', 'many'], "argument --batch-size: invalid int value: 'many'"),
        (['--lr', '1'], 'unrecognized arguments: --lr 1'),
        (['--epoch', '1'], 'unrecognized arguments: --epoch 1'),
    ],
)
def test_a_wrong_command_line_is_refused(argv, said):
    with pytest.raises(UserError, match=said):
        cli.parse(Config, argv)


def test_the_command_line_is_typed():
    parsed = cli.parse(
        Config, ['--learning-rate', '1e-2', '--out-dir', 'x/y', '--no-resume']
    )
    assert parsed == Config(learning_rate=0.01, out_dir=Path('x/y'), resume=False)
    parsed = cli.parse(
        compare.Comparison, ['--seeds', '3', '4', '--optimizers', 'adam']
    )
    assert parsed == compare.Comparison(seeds=(3, 4), optimizers=('adam',))


TINY = {'model': 'tiny', 'width': 4, 'epochs': 2, 'batch_size': 64, 'limit_train': 128}


def test_a_comparison_trains_each_optimizer_with_each_seed(tmp_path, capsys):
    comparison = compare.Comparison(
        **TINY, out_dir=tmp_path, optimizers=('sgdm', 'diffgrad'), seeds=(0, 1)
    )
    lines = compare.compare(comparison).all()
    assert [
        (line['settings']['optimizer'], line['settings']['seed']) for line in lines
    ] == [*(('sgdm', 0), ('sgdm', 1), ('diffgrad', 0), ('diffgrad', 1))]
    assert lines[0]['metrics'] != lines[1]['metrics']
    table = (tmp_path / 'compare.md').read_text()
    assert table in capsys.readouterr().out
    accuracies = [
        100 * line['metrics'][-1]['test_accuracy']
        for line in lines
        if line['settings']['optimizer'] == 'sgdm'
    ]
    assert f'| sgdm | {sum(accuracies) / 2:.2f} ± ' in table
    picture = tmp_path / 'compare-curves-digits.png'
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('changes', [{'width': 5}, {'epochs': 2}, {'model': 'cnn'}])
def test_a_comparison_is_not_replaced_by_one_of_other_settings(tmp_path, changes):
    first = compare.Comparison(
        model='mlp',
        width=4,
        epochs=1,
        out_dir=tmp_path,
        optimizers=('adam',),
        seeds=(0,),
    )
    compare.compare(first)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r'compare\.json is there and is no result of'):
        compare.compare(dataclasses.replace(first, **changes))
    assert contents(tmp_path) == before
    line = (tmp_path / 'compare.jsonl').read_text()
    more = {'optimizers': ('diffgrad', 'adam'), 'seeds': (1, 0)}
    compare.compare(dataclasses.replace(first, **more))
    assert (tmp_path / 'compare.jsonl').read_text().startswith(line)
    assert (tmp_path / 'compare.jsonl').read_text().count('\n') == 4


def test_a_seed_that_diverges_is_left_out_and_counted(tmp_path, monkeypatch, capsys):
    whole = plan.train

    def train(config, say):
        result = whole(config, say=say)
        if (config.optimizer, config.seed) == ('sgdm', 1):
            raise DivergedError('the loss is nan at step 3', 'try again')
        return result

    monkeypatch.setattr(plan, 'train', train)
    drawn = {}
    monkeypatch.setattr(report, 'draw_curves', lambda _, runs, __: drawn.update(runs))
    comparison = compare.Comparison(
        **TINY, out_dir=tmp_path, optimizers=('sgdm', 'adam'), seeds=(0, 1)
    )
    compare.compare(comparison)
    said = capsys.readouterr().out
    assert 'sgdm-seed1  diverged: the loss is nan at step 3' in said
    *_, sgdm, adam = (tmp_path / 'compare.md').read_text().splitlines()
    assert sgdm.count(' (1), 1 diverged |') == 2 and adam.count(' (2) |') == 2
    counts = {label: len(runs) for label, runs in drawn.items()}
    assert counts == {'sgdm, 1 diverged': 1, 'adam': 2}


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'optimizers': ('adam', 'adamm')}, "'adamm' is unknown"),
        ({'seeds': (0, 1, -1)}, '--seed -1 must be in 0'),
        ({'weight_decay': -1.0}, '--weight-decay -1.0 must be'),
    ],
)
def test_a_run_that_is_refused_stops_a_comparison_before_it_starts(
    tmp_path, changes, said
):
    settings = {'model': 'mlp', 'width': 4, 'optimizers': ('adam',), 'seeds': (0,)}
    comparison = compare.Comparison(**settings | changes, out_dir=tmp_path / 'runs')
    with pytest.raises(UserError, match=said):
        compare.compare(comparison)
    assert not (tmp_path / 'runs').exists()


def test_what_the_example_knows_by_name_is_in_its_readme():
    page = (ROOT / 'experiments' / 'cifar' / 'README.md').read_text()
    hints = typing.get_type_hints(Config)
    for field in ('dataset', 'model', 'schedule'):
        for name in typing.get_args(hints[field]):
            assert f'`{name}`' in page, name
    for name in (*BASES, *MODIFIERS):
        assert f'`{name}`' in page, name
