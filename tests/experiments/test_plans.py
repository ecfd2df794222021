"""Plans: which runs they are, in which order, and the tables of their lines."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments.cifar import plan as command
from experiments.cifar.plan import PLANS, configure
from experiments.lab.cli import UserError
from experiments.lab.grid import last
from experiments.lab.optimizer_parts import NAMES
from experiments.lab.optimizers import compose
from experiments.lab.plans import Row, load
from experiments.lab.record import Record
from experiments.lab.report import Results, report

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
PUBLISHED = sorted([*RESULTS.glob('study-*.jsonl'), *RESULTS.glob('tables-*.jsonl')])
STUDY, TABLES = PLANS / 'study.toml', PLANS / 'tables.toml'
MIXTURE = 'study-radamw+nesterov+noise+lr_dropout+lookahead'


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the programs."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def rows_of(path, **part):
    return [row for table in load(path, **part).tables for row in table.rows]


# What is planned.


def test_the_18_optimizers_their_baseline_and_the_mixture_are_in_the_study():
    study = [name for name in NAMES if name.startswith('study-')]
    assert len(study) == 18
    planned = {row.settings['optimizer'] for row in rows_of(STUDY)}
    assert planned == {*study, 'adam-half', MIXTURE}


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


@pytest.mark.parametrize('scale', ['mnist', 'cifar10'])
def test_the_study_has_its_own_setting(scale):
    for settings in load(STUDY, scale=scale).runs().values():
        told = configure(settings).settings()
        assert (told['batch_size'], told['epochs'], told['width']) == (128, 30, 64)
        assert (told['learning_rate'], told['schedule']) == (1e-3, 'plateau')
        assert told['limit_train'] is None


def test_the_paper_scale_is_the_papers_setting():
    for settings in load(TABLES, scale='paper').runs().values():
        told = configure(settings).settings()
        assert (told['model'], told['width'], told['epochs']) == ('resnet50', 64, 100)
        assert (told['schedule'], told['learning_rate']) == ('drop', None)
        assert told['limit_train'] is told['limit_test'] is None
        assert told['precision'] == 'float32'


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
def test_diffgrad_leads_the_published_table_at_every_batch_size(dataset):
    (table,) = load(TABLES, scale='paper', tables=['I']).tables
    published = {
        row.label: row.published[dataset] for row in table.rows if row.published
    }
    assert len(published) == 7 and table.batch_sizes == (32, 64, 128)
    for index in range(3):
        assert max(published, key=lambda label: published[label][index]) == 'diffGrad'


def test_every_row_names_an_optimizer():
    for row in rows_of(TABLES):
        composition = compose(row.settings['optimizer'])
        if row.label.startswith('diffGrad'):
            coefficient = row.label.partition(',')[0].replace('diffGrad', 'dfc')
            coefficient = 'relative_dfc' if 'relative' in row.label else coefficient
            assert dict(composition.modifiers) == {'friction': coefficient}


def test_every_run_of_diffgrad_has_its_baseline():
    for table in load(TABLES).tables:
        settings = [row.settings for row in table.rows]
        for told in settings:
            if told['optimizer'] == 'diffgrad':
                assert {**told, 'optimizer': 'adam-half'} in settings


def test_the_first_question_comes_first_with_every_seed_and_cifar100_last():
    names = list(load(TABLES, scale='small', seeds=[0, 1]).runs())
    arms = ['sgdm', 'adam', 'adam-half', 'diffgrad', 'adam+friction=relative_dfc']
    assert names[:10] == [
        f'cifar10-128-{arm}-relu-seed{seed}' for seed in (0, 1) for arm in arms
    ]
    is_100 = [name.startswith('cifar100') for name in names]
    assert is_100 == sorted(is_100)
    # 9 + 5 optimizers on both data sets and 3 × 2 on one, with three batch sizes.
    assert len(names) == 2 * 3 * (2 * (9 + 5) + 6)


@pytest.mark.parametrize(
    ('part', 'said'),
    [
        ({'datasets': ['cifar10']}, '--datasets cifar10: the plan has digits'),
        ({'scale': 'huge'}, '--scale huge: the plan has digits, small, paper'),
        ({'tables': ['IV']}, '--tables IV: the plan has first, I, II, III'),
        (
            {'scale': 'small', 'tables': ['III'], 'datasets': ['cifar100']},
            '--tables III has nothing of --datasets cifar100',
        ),
    ],
)
def test_what_a_plan_does_not_have_is_refused(part, said):
    with pytest.raises(UserError, match=said):
        load(TABLES, **part)


@pytest.mark.parametrize('text', ['mine', '[scales.a]', 'seeds = 1\nscales = 2'])
def test_a_file_that_is_no_plan_is_refused_in_one_line(tmp_path, text):
    (tmp_path / 'mine.toml').write_text(text)
    with pytest.raises(UserError, match=r'mine\.toml is no plan') as refusal:
        load(tmp_path / 'mine.toml')
    assert '\n' not in str(refusal.value)


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"does not fit: .*'widht'"):
        configure({'widht': 3})


# What is run.


def stand_in(config, say=None):
    """Leaves what a run leaves, in no time."""
    config.out_dir.mkdir()
    versions = dict.fromkeys(('jax', 'flax', 'optax'), '1')
    told = {'settings': config.settings(), 'devices': ['cpu'], 'versions': versions}
    (config.out_dir / 'config.json').write_text(json.dumps(told))
    line = dict.fromkeys(('train_loss', 'test_loss', 'test_accuracy'), 0.5)
    return SimpleNamespace(metrics=[line | {'seconds': 60.0}])


def test_a_dry_run_leaves_lines_and_says_when_nothing_is_missing(tmp_path, capsys):
    arguments = ['--scale=paper', '--smoke', f'--out-dir={tmp_path}']
    command.main([*arguments, '--minutes=0'])
    assert not list(tmp_path.glob('tables*'))
    assert '0 of 2 runs' in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, 'train', stand_in)
        command.main(arguments)
    assert '2 of 2  digits-128-adam-relu-seed0' in capsys.readouterr().out
    lines = (tmp_path / 'tables-paper.jsonl').read_text()
    for line in map(json.loads, lines.splitlines()):
        assert {'devices', 'versions', 'commit', 'seconds', 'metrics'} <= line.keys()
    made = json.loads((tmp_path / 'tables-paper.json').read_text())['runs']
    assert made == ['digits-128-sgdm-relu-seed0', 'digits-128-adam-relu-seed0']
    command.main(arguments)
    assert (tmp_path / 'tables-paper.jsonl').read_text() == lines
    command.main([*arguments, '--seeds=1', '--minutes=0'])
    assert not (tmp_path / 'tables-paper.json').exists()


def test_a_data_set_that_is_not_there_is_skipped_and_stays_missing(
    tmp_path, monkeypatch, capsys
):
    def data_checksum(config):
        if config.dataset == 'cifar100':
            raise UserError(f'--data-dir {config.data_dir} holds none of it')

    monkeypatch.setattr(command, 'data_checksum', data_checksum)
    monkeypatch.setattr(command, 'train', stand_in)
    small = ['--scale=small', f'--out-dir={tmp_path}']
    command.main([*small, '--tables=II'])
    said = capsys.readouterr().out
    assert 'cifar100 is skipped: --data-dir None holds none of it' in said
    assert '21 of 42 runs are in' in said
    assert not (tmp_path / 'tables-small-II.json').exists()
    with pytest.raises(UserError, match='holds none of it'):
        command.main([*small, '--datasets=cifar100'])


def test_without_arguments_digits_fill_all_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, 'train', stand_in)
    command.main([])
    out_dir = Path('runs/tables-digits')
    assert f'60 of 60 runs are in {out_dir}/tables-digits.jsonl' in (
        capsys.readouterr().out
    )
    text = (out_dir / 'tables-digits.md').read_text()
    assert text.startswith('resnet18 of width 8 on digits, all training')
    assert 'not run' not in text and 'published' not in text
    assert text.count('### ') == 4
    assert [file.name for file in out_dir.glob('*.png')] == [
        'tables-digits-first-digits.png'
    ]


def test_results_of_other_images_are_not_gone_on_with(tmp_path, monkeypatch):
    record = Record(tmp_path / 'tables-digits.jsonl')
    settings = next(iter(load(TABLES).runs().values()))
    told = configure(settings | {'seed': 7}).settings() | {'data_checksum': 'other'}
    record.add({'settings': told, 'metrics': [], 'seconds': 1.0})
    monkeypatch.setattr(command, 'train', pytest.fail)
    with pytest.raises(UserError, match=r'digits\.jsonl is of other data'):
        command.main([f'--out-dir={tmp_path}'])


# What is shown.


def filled(tmp_path, accuracies, **part):
    """Results of runs at batch size 128 with these last accuracies; None diverged."""
    record = Record(tmp_path / 'results.jsonl')
    plan = load(TABLES, scale='small', **part)
    for optimizer, of_seeds in accuracies.items():
        row = Row(optimizer, {'optimizer': optimizer, 'activation': 'relu'}, {})
        for seed, accuracy in of_seeds.items():
            metrics = [{'test_accuracy': 0.99}, {'test_accuracy': accuracy}]
            record.add(
                {
                    'settings': configure(
                        plan.settings('cifar10', 128, row, seed)
                    ).settings(),
                    'devices': ['abacus'],
                    'versions': {'jax': '1', 'flax': '2', 'optax': '3'},
                    'commit': 'c0ffee',
                    'seconds': 30.0,
                    'metrics': [] if accuracy is None else metrics,
                }
            )
    return Results(plan, record, configure)


def test_tables_have_means_over_seeds_differences_and_what_was_published(tmp_path):
    accuracies = {'adam-half': {0: 0.40, 1: 0.50}, 'diffgrad': {0: 0.42, 1: 0.51}}
    text = report(filled(tmp_path, accuracies), 'pebbles')
    conditions, first, one, two, three = text.split('\n### ')
    assert 'resnet18 of width 8 on pebbles, the first 2,000 training' in conditions
    assert '4 runs on abacus; jax 1, flax 2, optax 3; commit c0ffee' in conditions
    half = '| Adam, half the rate | – | 45.00 ± 7.07 (2) | – |'
    assert half in first
    assert '| diffGrad | 94.08 | 46.50 ± 6.36 (2) | 1.50 ± 0.71 (2) |' in first
    assert '| SGDM | 90.15 | not run | – |' in first
    assert 'both were run with: 1.50 ± 0.50 points (mean ± standard error, 2 p' in text
    assert (
        '| diffGrad | 93.90 | not run | 94.05 | not run | 94.08 | 46.50 ± 6.36 (2) |'
        in one
    )
    assert '| diffGrad, ReLU | 93.90 | not run | 94.05 |' in three
    assert '| diffGrad5 | 93.99 |' in two and '| diffGrad5 | 74.95 |' in two


def test_what_diverged_is_counted_and_in_no_mean(tmp_path):
    accuracies = {
        'adam-half': {0: 0.40, 1: 0.50, 2: 0.45},
        'diffgrad': {0: 0.42, 1: None, 2: 0.46},
        'sgdm': {0: None},
    }
    text = report(filled(tmp_path, accuracies))
    half = '(2), 1 diverged'
    assert f'| diffGrad | 94.08 | 44.00 ± 2.83 {half} | 1.50 ± 0.71 {half} |' in text
    assert '| SGDM | 90.15 | 1 diverged | 1 diverged |' in text
    assert '(mean ± standard error, 2 pairs), 1 with a run that diverged.' in text


def test_runs_of_another_scale_are_not_shown(tmp_path):
    results = filled(tmp_path, {'adam': {0: 0.4}})
    other = dataclasses.replace(results.plan, scale=load(TABLES).scale)
    text = report(Results(other, results.record, configure))
    assert '(1)' not in text and 'both were run with: not run.' in text


def published(path):
    name, _, scale = path.stem.partition('-')
    return Results(load(PLANS / f'{name}.toml', scale=scale), Record(path), configure)


@pytest.mark.parametrize('path', PUBLISHED, ids=lambda path: path.stem)
def test_the_committed_tables_are_of_the_committed_runs(path):
    images = None if 'digits' in path.stem else 'CIFAR-10 recompressed as JPEG'
    text = report(published(path), images)
    assert path.with_suffix('.md').read_text(encoding='utf-8') == text


def test_dropout_of_the_rate_and_lookahead_end_where_half_the_rate_does():
    results = published(RESULTS / 'study-digits.jsonl')

    def loss(optimizer):
        row = Row('', {'optimizer': optimizer}, {})
        runs = results.find('digits', 32, row).values()
        values = last([run['metrics'] for run in runs], 'train_loss')
        assert len(values) == 3
        return sum(values) / 3

    half, full = loss('adam-half'), loss('study-adam')
    for optimizer in ('study-adam-lr_dropout', 'study-lookahead-adam'):
        assert abs(loss(optimizer) - half) < 0.01 < full / 30
