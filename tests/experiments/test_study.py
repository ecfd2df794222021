"""experiments/study: who takes part, and what is shown of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.lab.grid import last
from experiments.lab.optimizers import compose
from experiments.lab.parts import NAMES
from experiments.lab.record import Record
from experiments.study import run
from experiments.study.experiments import ARMS, CONTROL, EXPERIMENTS, MIXTURE, plan
from experiments.study.report import (
    WINDOW,
    by_arm,
    draw_arm,
    draw_group,
    smoothed,
    table,
)

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
COMMITTED = sorted(RESULTS.glob('study-*.jsonl'))


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def test_the_18_the_control_and_the_mixture_take_part_once_each():
    study = [name for name in NAMES if name.startswith('study-')]
    assert len(study) == 18
    assert sorted(ARMS) == sorted([*study, CONTROL, MIXTURE])


def test_the_mixture_is_everything_at_once():
    mixture = compose(MIXTURE)
    assert mixture.base == 'radam'
    assert dict(mixture.modifiers) == {
        'decay': 1e-4,
        'nesterov': None,
        'noise': 0.3,
        'lr_dropout': 0.5,
        'lookahead': 5,
    }


@pytest.mark.parametrize('dataset', ['mnist', 'cifar10'])
def test_the_study_has_its_own_setting(dataset):
    for config in plan(EXPERIMENTS[dataset], (0,)).values():
        told = config.settings()
        assert (told['batch_size'], told['epochs'], told['width']) == (128, 30, 64)
        assert (told['learning_rate'], told['schedule']) == (1e-3, 'plateau')
        assert told['limit_train'] is None


def test_smoothing_is_the_mean_of_the_epochs_around():
    values = np.array([5.0, 1.0, 4.0, 2.0, 8.0, 0.0, 3.0, 7.0])
    half = WINDOW // 2
    expected = [
        values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))
    ]
    np.testing.assert_allclose(smoothed(values), expected, rtol=1e-12)


def stand_in(config):
    """Leaves what a run leaves, in no time; every optimizer has losses of its own."""
    config.out_dir.mkdir()
    told = {'settings': config.settings(), 'devices': ['cpu'], 'versions': {}}
    (config.out_dir / 'config.json').write_text(json.dumps(told))
    loss = 0.1 + ARMS.index(config.optimizer) + config.seed
    line = {'train_loss': loss, 'test_loss': 2 * loss, 'test_accuracy': loss / 100}
    return SimpleNamespace(metrics=[line | {'seconds': 1.0}] * config.epochs)


def test_the_command_adds_lines_and_draws_a_table_and_every_group(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run, 'train', lambda config, say: stand_in(config))
    results = tmp_path / 'results.jsonl'
    run.main(
        [
            '--seeds=0',
            f'--results={results}',
            f'--runs-dir={tmp_path / "runs"}',
            f'--images-dir={tmp_path / "images"}',
        ]
    )
    assert '20 runs are in' in capsys.readouterr().out
    assert len(Record(results).runs) == 20
    assert '| control | `adam-half` | 0.1000 | 0.2000 | 0.10 | 1 |' in (
        results.with_suffix('.md').read_text()
    )
    assert sorted(file.name for file in (tmp_path / 'images').iterdir()) == [
        f'results-{group}.png'
        for group in ('adam', 'lookahead-and-noise', 'radam', 'sgd')
    ]


def test_the_table_has_means_over_seeds_and_says_what_was_not_run():
    def metrics(loss):
        return [{'train_loss': loss, 'test_loss': loss, 'test_accuracy': loss}]

    text = table({CONTROL: [metrics(0.25), metrics(0.75)], 'study-sgd': []})
    assert '| 0.5000 ± 0.3536 | 0.5000 ± 0.3536 | 50.00 ± 35.36 | 2 |' in text
    assert '| sgd | `sgd` | not run | not run | not run | 0 |' in text


def test_what_diverged_is_counted_and_not_drawn(tmp_path):
    def metrics(loss):
        return [{'train_loss': loss, 'test_loss': loss, 'test_accuracy': loss}] * 4

    runs = {arm: [] for arm in ARMS}
    runs |= {CONTROL: [metrics(0.25), []], 'study-sgd': [[]]}
    text = table(runs)
    half = '0.2500, 1 diverged'
    assert f'| {half} | {half} | 25.00, 1 diverged | 2 |' in text
    assert '| sgd | `sgd` | 1 diverged | 1 diverged | 1 diverged | 1 |' in text
    draw_group(tmp_path / 'sgd.png', runs, 'sgd', 'title')
    assert (tmp_path / 'sgd.png').stat().st_size > 5000
    axes = Figure().subplots()
    for index, arm in enumerate((CONTROL, 'study-sgd')):
        losses = [[line['test_loss'] for line in run] for run in runs[arm]]
        draw_arm(axes, losses, arm, index)
    _, labels = axes.get_legend_handles_labels()
    assert labels == ['adam-half, 1 diverged', 'sgd, 1 diverged']


def runs_of(results):
    experiment = EXPERIMENTS[results.stem.removeprefix('study-')]
    return by_arm(Record(results), experiment)


@pytest.mark.parametrize('results', COMMITTED, ids=lambda path: path.stem)
def test_the_committed_tables_are_of_the_committed_runs(results):
    text = results.with_suffix('.md').read_text(encoding='utf-8')
    assert text == table(runs_of(results)) + '\n'


def test_the_mixture_trained_on_digits():
    runs = runs_of(RESULTS / 'study-digits.jsonl')[MIXTURE]
    assert len(runs) == 3
    for metrics in runs:
        assert np.all(np.diff([line['test_loss'] for line in metrics]) < 0)
        assert metrics[-1]['test_accuracy'] > 0.3  # a tenth is chance


def test_dropout_of_the_rate_and_lookahead_end_where_half_the_rate_does():
    runs = runs_of(RESULTS / 'study-digits.jsonl')

    def losses(arm):
        return np.array(last(runs[arm], 'train_loss'))

    half, full = losses(CONTROL).mean(), losses('study-adam').mean()
    for arm in ('study-adam-lr_dropout', 'study-lookahead-adam'):
        assert abs(losses(arm).mean() - half) < 0.01 < full / 30
