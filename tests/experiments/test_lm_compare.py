"""experiments: six optimizers on language models, and the page that they make."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.lab.cli import UserError
from experiments.lab.finite import DivergedError
from experiments.lab.optimizers import compose
from experiments.lab.record import Record
from experiments.lm import compare, data, plans
from experiments.lm.config import Config, check
from experiments.lm.train import limited

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'


def fake_train(config, say):
    """Leaves what a run leaves; adam is the best in training, sgd in validation."""
    config.out_dir.mkdir()
    (config.out_dir / 'config.json').write_text(
        json.dumps({'settings': config.settings()}, default=str)
    )
    order = [arm.optimizer for arm in plans.ARMS.values()].index(config.optimizer)
    line = {
        'seconds': 0.0,
        'train_loss': abs(order - 1.0) + config.learning_rate,
        'valid_loss': order + config.seed,
    }
    return SimpleNamespace(metrics=[line])


def never(config, say):
    raise AssertionError('nothing is to be run')


@pytest.fixture(scope='module')
def faked(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp('lm')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, 'train', fake_train)
        compare.main(['--out-dir', str(out_dir)])
    return out_dir


def test_one_command_makes_lines_a_table_a_picture_and_says_that_it_is_done(faked):
    for model in ('lstm', 'transformer'):
        lines = (faked / f'lm-{model}.jsonl').read_text().splitlines()
        assert len(lines) == 6 * 3 * 3
    assert json.loads((faked / 'lm.json').read_text()) == {
        'scale': 'embedded',
        'runs': {'lstm': 54, 'transformer': 54},
    }
    assert (faked / 'lm-rates.png').stat().st_size > 5000
    # The lowest training loss is at the lowest rate; seeds are 0, 1 and 2.
    cell = '2.0000 ± 1.0000'
    assert (
        f'| adam | {cell} | {cell} | {cell} | 0.001 | {cell} |'
        in (faked / 'lm.md').read_text()
    )


def test_what_has_its_line_is_not_run_again(faked, monkeypatch):
    before = (faked / 'lm-lstm.jsonl').read_bytes()
    monkeypatch.setattr(compare, 'train', never)
    compare.main(['--out-dir', str(faked)])
    assert (faked / 'lm-lstm.jsonl').read_bytes() == before


def test_without_time_nothing_is_run_or_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, 'train', never)
    compare.main(['--smoke', '--minutes', '0', '--out-dir', str(tmp_path)])
    assert 'nothing to show' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['runs']


def test_what_is_missing_again_is_shown_and_not_called_done(
    faked, monkeypatch, tmp_path
):
    out_dir = shutil.copytree(faked, tmp_path / 'lm')
    lines = (out_dir / 'lm-lstm.jsonl').read_text().splitlines(keepends=True)
    (out_dir / 'lm-lstm.jsonl').write_text(''.join(lines[1:]))
    monkeypatch.setattr(compare, 'train', never)
    compare.main(['--minutes', '0', '--out-dir', str(out_dir)])
    assert not (out_dir / 'lm.json').exists()
    assert ' (2) |' in (out_dir / 'lm.md').read_text()


@pytest.mark.parametrize('scale', plans.SCALES)
def test_every_arm_has_the_same_budget_and_every_run_is_allowed(scale):
    plan = plans.SCALES[scale](Path('data'))
    for model in plan.models:
        configs = plan.configs(model)
        assert len(configs) == len(plans.ARMS) * len(plan.rates) * len(plan.seeds)
        assert len({(c.epochs, c.batch_size, c.clip) for c in configs.values()}) == 1
        for config in configs.values():
            check(config)
            compose(config.optimizer, weight_decay=config.weight_decay)


def test_the_paper_scale_is_the_papers_setting():
    plan = plans.paper(Path('data'))
    assert (plan.rates, plan.seeds) == ((2.5e-3, 1e-2, 4e-2), (0, 1, 2))
    shared = {
        'tokens': 'words',
        'limit_train': None,
        'width': 400,
        'context': 70,
        'batch_size': 20,
        'clip': 0.25,
        'weight_decay': 1.2e-6,
        'precision': 'float32',
    }
    lstm = {'layers': 2, 'hidden': 1150, 'awd': True, 'epochs': 200}
    transformer = {'layers': 6, 'heads': 10, 'dropout': 0.3, 'epochs': 40}
    models = {
        'lstm': shared | lstm | {'schedule': 'drops'},
        'transformer': shared | transformer | {'schedule': 'cosine', 'hidden': None},
    }
    assert plan.models.keys() == models.keys()
    for name, expected in models.items():
        told = plan.models[name].settings()
        assert {key: told[key] for key in expected} == expected


def test_all_networks_share_the_minutes(monkeypatch, tmp_path):
    now, told = [0.0], []

    def four_minutes(*_, minutes, **__):
        told.append(minutes)
        now[0] += 4 * 60

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(compare, 'time', clock)
    monkeypatch.setattr(compare, 'run_missing', four_minutes)
    compare.main(['--smoke', '--minutes', '10', '--out-dir', str(tmp_path)])
    assert told == [10.0, 6.0]


def test_sgd_alone_has_other_rates_and_adadiff_its_experiments_epsilon():
    configs = plans.embedded(None).configs('lstm')
    for (arm, rate, _), config in configs.items():
        factor = 1000.0 if config.optimizer == 'sgd' else 1.0
        assert config.learning_rate == factor * rate
        assert ('1000' in arm) == (config.optimizer == 'sgd')
    adadiff = compose(configs['adadiff', 4e-3, 0].optimizer)
    assert dict(adadiff.modifiers) == {'eps_root': 1e-16}


def test_runs_that_diverge_are_results(monkeypatch, tmp_path):
    def train(config, say):
        result = fake_train(config, say)
        if (config.model, config.optimizer) in diverge:
            raise DivergedError('the loss of step 3 is infinite or NaN', 'try again')
        return result

    diverge = {('lstm', 'sgd'), ('lstm', 'adam'), ('transformer', 'sgd')}
    monkeypatch.setattr(compare, 'train', train)
    compare.main(['--smoke', '--out-dir', str(tmp_path)])
    assert (tmp_path / 'lm.json').exists()
    lstm, transformer = (tmp_path / 'lm.md').read_text().split('transformer')
    assert '| sgd (rates × 1000) | 1 diverged | – | – |' in lstm
    assert '| adam | 1 diverged | – | – |' in lstm
    assert '| adam | 1.0000 | 0.004 | 1.0000 |' in transformer
    assert (tmp_path / 'lm-rates.png').stat().st_size > 5000
    drawn = []
    monkeypatch.setattr(
        compare, 'draw_grid', lambda _, panels, *__: drawn.append(panels)
    )
    monkeypatch.setattr(compare, 'train', never)
    compare.main(['--smoke', '--out-dir', str(tmp_path)])
    (panels,) = drawn
    lstm, transformer = (arms['adam'] for arms in panels.values())
    assert transformer == {0.004: [1.0]}
    np.testing.assert_equal(lstm, {0.004: [np.nan]})


def test_a_test_text_is_shown_where_there_is_one_and_chooses_nothing():
    def lines(**metrics):
        return {('adam', 1e-3, 0): {'metrics': [metrics]}}

    embedded = lines(train_loss=1.0, valid_loss=2.0)
    assert compare.metric_names(embedded) == ('train_loss', 'valid_loss')
    files = lines(train_loss=1.0, valid_loss=2.0, test_loss=3.0)
    assert compare.metric_names(files) == ('valid_loss', 'test_loss')
    # Only after the last epoch, and not where the run diverged.
    files['adam', 1e-3, 0]['metrics'].insert(0, {'train_loss': 2.0, 'valid_loss': 3.0})
    diverged = {('adam', 1e-3, 1): {'metrics': []}}
    assert compare.metric_names(diverged | files) == ('valid_loss', 'test_loss')


def test_the_papers_experiment_needs_its_text():
    with pytest.raises(UserError, match='--scale paper needs --data-dir'):
        compare.main(['--scale', 'paper'])


def test_a_limit_leaves_the_first_tokens_and_all_of_the_validation_text():
    text = data.load(None, 'bytes')
    short = limited(text, 1000)
    assert bytes(short.train) == bytes(text.train[:1000])
    assert len(short.valid) == len(text.valid)
    assert len(limited(text, None).train) == len(text.train)
    with pytest.raises(UserError, match='--limit-train 400000 is more than the'):
        limited(text, 400_000)
    with pytest.raises(UserError, match='--limit-train 0 must be at least 1'):
        check(Config(limit_train=0))


def test_the_committed_table_is_that_of_the_committed_lines():
    plan = plans.embedded(None)
    lines = {
        model: compare.results(plan, model, Record(compare.path_of(RESULTS, model)))
        for model in plan.models
    }
    assert compare.tables(plan, lines) + '\n' == (RESULTS / 'lm.md').read_text()
