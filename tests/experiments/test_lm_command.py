"""experiments/lm as a person runs it: files, interruptions, refusals, processes."""

import json
import math
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.lab import cli
from experiments.lab.cli import UserError
from experiments.lab.divergence import DivergedError
from experiments.lm import data, epochs, train
from experiments.lm.batches import steps_in
from experiments.lm.config import Config
from experiments.lm.report import scores


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    """A made-up language of three sentences."""
    path = tmp_path_factory.mktemp('texts')
    sentences = ['the cat sat', 'a dog ran', 'the dog sat on a cat']
    rng = np.random.default_rng(0)
    for name, count in (('train', 60), ('valid', 9), ('test', 11)):
        lines = (sentences[i] for i in rng.integers(0, 3, count))
        (path / f'{name}.txt').write_text('\n'.join(lines) + '\n')
    return path


def config(texts, path, **changes):
    arguments = {
        'data_dir': texts,
        'model': 'lstm',
        'tokens': 'words',
        'layers': 1,
        'width': 8,
        'context': 5,
        'batch_size': 4,
        'epochs': 3,
        'optimizer': 'adadiff',
        'weight_decay': 1.2e-6,
        'learning_rate': 0.02,
        'clip': 0.25,
        'schedule': 'drops',
        'out_dir': path,
    }
    return Config(**arguments | changes)


@pytest.fixture(scope='module')
def finished(texts, tmp_path_factory):
    """A run that was never stopped, and what it said."""
    path = tmp_path_factory.mktemp('finished') / 'run'
    said = []
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        result = train.train(config(texts, path), say=said.append)
    return result, '\n'.join(said)


def without_times(metrics):
    """What a run decides, in contrast to the machine that it runs on."""
    times = ('seconds', 'tokens_per_second')
    return [{k: v for k, v in line.items() if k not in times} for line in metrics]


def contents(path):
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob('*')
        if file.is_file() and file.name != 'lock'
    }


def test_a_run_says_what_it_found_and_what_it_came_to(finished):
    result, said = finished
    assert 'device     1 × cpu, data 1 × fsdp 1\n' in said
    assert 'words to train' in said
    assert '9 different' in said
    assert 'optimizer  adadiff, batch 4 × 5\n' in said
    assert said.count('epoch   ') == 3
    perplexity = result.metrics[-1]['test_perplexity']
    last = said.splitlines()[-1]
    assert f'(perplexity {perplexity:.2f}); everything is in {result.out_dir}' in last


def test_a_run_leaves_its_configuration_metrics_picture_and_checkpoints(finished):
    result, _ = finished
    record = json.loads((result.out_dir / 'config.json').read_text())
    assert record['settings']['optimizer'] == 'adadiff'
    assert len(record['settings']['data_checksum']) == 8
    assert 'data_dir' not in record['settings']
    lines = (result.out_dir / 'metrics.jsonl').read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line['epoch'] for line in metrics] == [1, 2, 3]
    for line in metrics:
        expected = math.exp(line['valid_loss'])
        np.testing.assert_allclose(line['valid_perplexity'], expected)
    # The test text is looked at once, in the end.
    assert ['test_loss' in line for line in metrics] == [False, False, True]
    assert metrics[-1]['train_loss'] < metrics[0]['train_loss'] < math.log(9) + 0.1
    assert (result.out_dir / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert (result.out_dir / 'checkpoints').is_dir()


def state_of(path, epoch):
    """The arrays of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((path / 'checkpoints' / str(epoch)).absolute())


@pytest.mark.parametrize('moment', ['train_steps', 'evaluate'])
def test_an_interrupted_run_goes_on_bit_for_bit(
    finished, texts, tmp_path, monkeypatch, moment
):
    result, _ = finished
    function, calls = getattr(epochs, moment), []
    # The first call compiles, then those of epoch 1 follow.
    words = len(data.load(texts, 'words').train)
    in_epoch = steps_in(words, 4, 5) if moment == 'train_steps' else 1

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == 1 + in_epoch + 1:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    path = tmp_path / 'run'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(epochs, moment, interrupted)
        train.train(config(texts, path), say=lambda line: None)
    said = []
    again = train.train(config(texts, path), say=said.append)
    assert 'continues  after epoch 1 of 3' in said
    assert without_times(again.metrics) == without_times(result.metrics)
    chex.assert_trees_all_equal(state_of(path, 3), state_of(result.out_dir, 3))


def test_a_finished_run_is_reported_and_not_repeated_and_writes(
    finished, texts, monkeypatch
):
    result, _ = finished
    before = contents(result.out_dir / 'checkpoints')
    monkeypatch.setattr(epochs, 'train_steps', None)
    said = []
    again = train.train(config(texts, result.out_dir, sample=30), say=said.append)
    assert again.metrics == result.metrics
    assert contents(result.out_dir / 'checkpoints') == before
    assert said[-2] == f'\n{again.written}\n'
    assert len(again.written.replace('\n', ' eos ').split()) == 30
    known = ['the', 'a', 'cat', 'dog', 'sat', 'ran', 'on']
    assert set(again.written.split()) <= {*known, '<unk>'}


def test_the_state_is_carried_through_an_epoch_and_not_into_the_next(
    texts, tmp_path, monkeypatch
):
    function, carried = epochs.train_steps, []

    def noted(state, carry, *args, **kwargs):
        carried.append(any(np.any(leaf) for leaf in jax.tree.leaves(carry)))
        return function(state, carry, *args, **kwargs)

    monkeypatch.setattr(epochs, 'train_steps', noted)
    train.train(config(texts, tmp_path / 'run'), say=lambda line: None)
    steps = steps_in(len(data.load(texts, 'words').train), 4, 5)
    assert steps > 2
    # The first call compiles.
    assert carried == [False] + 3 * ([False] + (steps - 1) * [True])


@pytest.fixture
def one_loss_is_nan(monkeypatch):
    """The third step's; the state is none the worse for it."""
    function, calls = epochs.train_steps, []

    def broken(*args, task):
        calls.append(None)
        task = task._replace(skip_non_finite=False)  # which is compiled already
        state, carry, means = function(*args, task=task)
        # The first call compiles.
        return state, carry, means * (jnp.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(epochs, 'train_steps', broken)


@pytest.mark.usefixtures('one_loss_is_nan')
def test_a_loss_that_is_no_number_stops_the_run(texts, tmp_path):
    with pytest.raises(UserError) as refusal:
        train.train(config(texts, tmp_path / 'run'), say=lambda line: None)
    assert str(refusal.value) == (
        'the loss of step 3 is infinite or NaN: there is no checkpoint yet. Try a '
        'smaller --learning-rate in another --out-dir, or --non-finite skip in '
        'this one'
    )


@pytest.mark.parametrize('loss', [math.nan, math.inf])
@pytest.mark.parametrize(
    ('method', 'said'),
    [('loss', 'the valid loss of epoch 1'), ('test_loss', 'the test loss of epoch 3')],
)
def test_a_network_whose_loss_on_other_texts_is_no_number_has_diverged(
    texts, tmp_path, monkeypatch, method, said, loss
):
    monkeypatch.setattr(epochs.Trainer, method, lambda self, state: loss)
    with pytest.raises(DivergedError, match=f'{said} is infinite or NaN'):
        train.train(config(texts, tmp_path / 'run'), say=lambda line: None)


@pytest.mark.usefixtures('one_loss_is_nan')
def test_a_loss_that_is_no_number_is_skipped_and_counted(finished, texts, tmp_path):
    said = []
    path = tmp_path / 'run'
    result = train.train(config(texts, path, non_finite='skip'), say=said.append)
    assert [line.get('skipped_steps') for line in result.metrics] == [1, None, None]
    assert 'skipped' in next(line for line in said if line.startswith('epoch   1'))
    assert math.isfinite(result.metrics[0]['train_loss'])
    assert result.metrics[2]['valid_loss'] == finished[0].metrics[2]['valid_loss']


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'epochs': 4}, r'holds a run with epochs=3 \(now 4\)'),
        ({'tokens': 'bytes'}, r'tokens=words \(now bytes\), data_checksum='),
        ({'resume': False}, 'already holds a run'),
        ({'optimizer': 'adamm'}, "'adamm' is unknown. A base is one of sgd"),
        ({'learning_rate': -1.0}, '--learning-rate -1.0 must be finite'),
        ({'batch_size': 100}, 'words to train, too few for --batch-size 100'),
        ({'context': 99, 'batch_size': 1}, 'to validate, too few for --context 99'),
        ({'context': 1}, '--context 1 must be at least 2'),
        ({'layers': 0}, '--layers 0 must be at least 1'),
        ({'sample': -1}, '--sample -1 must be at least 0'),
        ({'seed': -1}, '--seed -1 must be in'),
        ({'clip': 0.0}, '--clip 0.0 must be finite and more than 0'),
        ({'temperature': -1.0}, '--temperature -1.0 must be finite'),
        ({'dropout': 1.0}, '--dropout 1.0 must be from 0 to less than 1'),
        ({'dropout': 0.1}, '--dropout goes with --model transformer'),
        ({'model': 'transformer', 'awd': True}, '--awd goes with --model lstm'),
        (
            {'model': 'transformer', 'width': 20, 'heads': 4},
            '--width 20 does not divide by twice the --heads 4: .* multiple of 8',
        ),
        ({'fsdp': 3}, '--fsdp 3 does not divide the 1 devices: choose one of 1'),
        ({'data_dir': Path('nowhere')}, 'cannot read nowhere/train.txt'),
    ],
)
def test_a_wrong_run_is_refused_and_nothing_is_overwritten(
    finished, texts, changes, said
):
    result, _ = finished
    before = contents(result.out_dir)
    with pytest.raises(UserError, match=said) as refusal:
        train.train(config(texts, result.out_dir, **changes))
    assert '\n' not in str(refusal.value)
    assert contents(result.out_dir) == before


def test_a_test_text_without_a_token_to_predict_is_refused(texts, tmp_path):
    copied = shutil.copytree(texts, tmp_path / 'texts')
    (copied / 'test.txt').write_text('c')
    with pytest.raises(UserError, match=r'has 1 bytes to test.* give two at least$'):
        train.train(config(copied, tmp_path / 'run', tokens='bytes'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('optimizer', 'said'),
    [
        ('adamm', "'adamm' is unknown"),
        ('adam+frozen=0.1,0.2', 'frozen has 2 numbers for 6 arrays'),
    ],
)
def test_an_optimizer_that_cannot_be_leaves_no_folder(optimizer, said, texts, tmp_path):
    with pytest.raises(UserError, match=said):
        train.train(
            config(texts, tmp_path / 'run', optimizer=optimizer, weight_decay=None)
        )
    assert not (tmp_path / 'run').exists()


def test_bytes_are_scored_in_bits_and_words_in_perplexity():
    assert scores('test', 2 * math.log(2), 'bytes') == {
        'test_loss': 2 * math.log(2),
        'test_bits_per_byte': 2.0,
    }
    words = scores('valid', math.log(5), 'words')
    np.testing.assert_allclose(words['valid_perplexity'], 5)


def test_the_command_line_is_typed_and_a_wrong_one_is_refused():
    parsed = cli.parse(Config, ['--fsdp', '4', '--awd', '--data-dir', 'x/y'])
    assert parsed == Config(fsdp=4, awd=True, data_dir=Path('x/y'))
    with pytest.raises(UserError, match='unrecognized arguments: --fdsp 4'):
        train.main(['--fdsp', '4'])
