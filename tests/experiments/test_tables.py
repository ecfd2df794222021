"""experiments/tables: what is run, in which order, how it compares with the paper."""

import dataclasses
import json
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import jax
import pytest

from experiments.lab.cli import UserError
from experiments.lab.optimizers import compose
from experiments.lab.record import Record
from experiments.tables import render, run
from experiments.tables.paper import BATCH_SIZES, TABLES, Cell, cells
from experiments.tables.scales import SCALES, configure

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
ROWS = {(name, row.label): row for name, table in TABLES.items() for row in table.rows}


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
def test_diffgrad_leads_the_published_table_at_every_batch_size(dataset):
    published = {
        row.label: row.published(dataset)
        for row in TABLES['I'].rows
        if None not in row.published(dataset)
    }
    assert len(published) == 7
    for index in range(len(BATCH_SIZES)):
        assert max(published, key=lambda label: published[label][index]) == 'diffGrad'


@pytest.mark.parametrize('row', ROWS.values(), ids=map(' '.join, ROWS))
def test_every_row_names_an_optimizer(row):
    base = compose(row.optimizer)
    if row.label.startswith('diffGrad'):
        coefficient = row.label.partition(',')[0].replace('diffGrad', 'dfc')
        coefficient = 'relative_dfc' if 'relative' in row.label else coefficient
        assert dict(base.modifiers) == {'friction': coefficient}


@pytest.mark.parametrize('name', TABLES)
def test_every_number_of_diffgrad_has_its_control(name):
    table = TABLES[name]
    for dataset in table.datasets:
        wanted = set(cells(table, dataset))
        controlled = [cell for cell in wanted if cell.optimizer == 'diffgrad']
        assert controlled
        for cell in controlled:
            assert cell._replace(optimizer='adam-half') in wanted


def test_the_first_question_comes_first_with_every_seed_and_cifar100_last():
    stages = run.in_order(tuple(TABLES), SCALES['small'].datasets)
    names = list(run.plan(stages, SCALES['small'], (0, 1), None))
    arms = ['sgdm', 'adam', 'adam-half', 'diffgrad', 'adam+friction=relative_dfc']
    assert names[:10] == [
        f'cifar10-128-{arm}-relu-seed{seed}' for seed in (0, 1) for arm in arms
    ]
    is_100 = [name.startswith('cifar100') for name in names]
    assert is_100 == sorted(is_100)
    # 9 + 5 optimizers on both data sets and 3 × 2 on one, with three batch sizes.
    assert len(names) == 2 * 3 * (2 * (9 + 5) + 6)


def test_the_paper_scale_is_the_papers_setting():
    config = configure(
        Cell('cifar10', 32, 'diffgrad', 'elu'), SCALES['paper'], 3, Path('data')
    )
    told = config.settings()
    assert (told['model'], told['width'], told['epochs']) == ('resnet50', 64, 100)
    assert (told['schedule'], told['learning_rate']) == ('drop', None)
    assert told['limit_train'] is told['limit_test'] is None
    assert (told['batch_size'], told['activation'], told['seed']) == (32, 'elu', 3)
    assert (told['precision'], config.data_dir) == ('float32', Path('data'))


def test_a_dry_run_leaves_lines_and_says_when_nothing_is_missing(
    tmp_path, monkeypatch, capsys
):
    paper = dataclasses.replace(SCALES['paper'], model='mlp')
    monkeypatch.setitem(SCALES, 'paper', paper)
    out, runs = tmp_path / 'out', tmp_path / 'runs'
    out.mkdir()
    arguments = ['--scale=paper', '--smoke', f'--out-dir={out}', f'--runs-dir={runs}']
    run.main([*arguments, '--minutes=0'])
    assert not list(out.iterdir())
    assert '0 of 2 runs' in capsys.readouterr().out
    run.main(arguments)
    said = capsys.readouterr().out
    assert 'missing: 2; the first will tell how long they take' in said
    assert '2 of 2  digits-128-adam-relu-seed0' in said
    lines = (out / 'tables-paper.jsonl').read_text()
    for line in map(json.loads, lines.splitlines()):
        assert {'devices', 'versions', 'commit', 'seconds', 'metrics'} <= line.keys()
    made = json.loads((out / 'tables-paper.json').read_text())['runs']
    assert made[0] == 'digits-128-sgdm-relu-seed0' and len(made) == 2
    run.main(arguments)
    assert 'nothing is missing' in capsys.readouterr().out
    assert (out / 'tables-paper.jsonl').read_text() == lines
    run.main([*arguments, '--seeds=1', '--minutes=0'])
    assert not (out / 'tables-paper.json').exists()


def test_a_dry_run_is_kept_out_of_the_results():
    with pytest.raises(UserError, match='--smoke'):
        run.main(['--smoke'])


def stand_in(config):
    """Leaves what a run leaves, in no time."""
    config.out_dir.mkdir()
    versions = dict.fromkeys(('jax', 'flax', 'optax'), '1')
    told = {'settings': config.settings(), 'devices': ['cpu'], 'versions': versions}
    (config.out_dir / 'config.json').write_text(json.dumps(told))
    return SimpleNamespace(metrics=[{'test_accuracy': 0.5, 'seconds': 60.0}])


def test_a_data_set_that_is_not_there_is_skipped_and_stays_missing(
    tmp_path, monkeypatch, capsys
):
    def data_checksum(config):
        if config.dataset == 'cifar100':
            raise UserError(f'--data-dir {config.data_dir} holds none of it')

    monkeypatch.setattr(run, 'data_checksum', data_checksum)
    monkeypatch.setattr(run, 'train', lambda config, say: stand_in(config))
    small = ['--scale=small', f'--runs-dir={tmp_path / "r"}']
    run.main([*small, '--tables=II', f'--out-dir={tmp_path / "out"}'])
    said = capsys.readouterr().out
    assert 'cifar100 is skipped: --data-dir None holds none of it' in said
    assert 'missing: 20, about 20 min' in said
    assert '21 of 42 runs are in' in said
    assert not (tmp_path / 'out' / 'tables-small.json').exists()
    with pytest.raises(UserError, match='holds none of it'):
        run.main([*small, '--datasets=cifar100'])


def test_without_arguments_digits_fill_all_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = []

    def train(config, say):
        told.append(config)
        return stand_in(config)

    monkeypatch.setattr(run, 'train', train)
    run.main([])
    assert '60 of 60 runs are in docs/results/tables-digits.jsonl' in (
        capsys.readouterr().out
    )
    assert {config.dataset for config in told} == {'digits'}
    assert {config.batch_size for config in told} == set(BATCH_SIZES)
    render.main([])
    text = Path('docs/results/tables-digits.md').read_text()
    assert 'Test accuracy (%) on digits: resnet18 of width 8' in text
    assert 'not run' not in text and 'published' not in text
    assert text.count('### ') == len(TABLES)


@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        (['--datasets=cifar10'], '--datasets cifar10: --scale digits has digits'),
        (['--scale=paper', '--datasets=digits'], 'has cifar10 and cifar100'),
        (['--data-dir=DATA'], '--data-dir DATA: the embedded digits need none'),
        (
            ['--scale=small', '--tables=III', '--datasets=cifar100'],
            '--tables III has nothing of --datasets cifar100',
        ),
    ],
)
def test_a_scale_refuses_data_that_are_not_its_own(arguments, named, tmp_path):
    with pytest.raises(UserError, match=named):
        run.main([*arguments, f'--out-dir={tmp_path}'])
    assert not list(tmp_path.iterdir())


def test_results_of_other_images_are_not_gone_on_with(tmp_path, monkeypatch):
    record = Record(tmp_path / 'tables-digits.jsonl')
    config = configure(Cell('digits', 128, 'adam', 'relu'), SCALES['digits'], 0, None)
    told = config.settings() | {'data_checksum': 'other'}
    record.add({'settings': told, 'metrics': [], 'seconds': 1.0})
    monkeypatch.setattr(run, 'train', pytest.fail)
    with pytest.raises(UserError, match=r'digits\.jsonl is of other data'):
        run.main([f'--results={record.path}', f'--runs-dir={tmp_path / "r"}'])


def test_results_that_do_not_exist_are_not_shown(tmp_path):
    with pytest.raises(UserError, match=r'nowhere\.jsonl does not exist'):
        render.main([f'--results={tmp_path / "nowhere.jsonl"}'])


def filled(tmp_path, accuracies):
    """A record of runs at batch size 128 with these last accuracies; None diverged."""
    record = Record(tmp_path / 'results.jsonl')
    for optimizer, of_seeds in accuracies.items():
        for seed, accuracy in of_seeds.items():
            cell = Cell('cifar10', 128, optimizer, 'relu')
            config = configure(cell, SCALES['small'], seed, None)
            metrics = [{'test_accuracy': 0.99}, {'test_accuracy': accuracy}]
            metrics = [] if accuracy is None else metrics
            record.add(
                {
                    'settings': config.settings(),
                    'devices': ['abacus'],
                    'versions': {'jax': '1', 'flax': '2', 'optax': '3'},
                    'commit': 'c0ffee',
                    'seconds': 30.0 * len(metrics),
                    'metrics': metrics,
                }
            )
    return record


def test_numbers_stand_beside_the_published_ones_and_gaps_are_said(tmp_path):
    halves = {0: 0.40, 1: 0.50, 2: 0.45}
    record = filled(tmp_path, {'adam-half': halves, 'diffgrad': {0: 0.42, 1: 0.51}})
    text = render.render(record, SCALES['small'], 'pebbles')
    assert 'Test accuracy (%) on pebbles: resnet18 of width 8' in text
    assert '5 runs on abacus; jax 1, flax 2, optax 3; commit c0ffee' in text
    first, one, two, three = text.split('\n### ')[1:]
    assert '| Adam, half the rate | – | 45.00 ± 5.00 (3) | – |' in first
    assert '| diffGrad | 94.08 | 46.50 ± 6.36 (2) | 1.50 ± 0.71 (2) |' in first
    assert '| Adam | 93.72 | not run | not run |' in first
    assert 'seeds that both were run with: 1.50 ± 0.50 points' in first
    assert 'standard error, 2 pairs)' in first
    assert (
        '| diffGrad | 93.90 | not run | 94.05 | not run | 94.08 | 46.50 ± 6.36 (2) |'
        in one
    )
    assert '| diffGrad, ReLU | 93.90 | not run | 94.05 |' in three
    for part, name in ((one, 'I'), (two, 'II'), (three, 'III')):
        for row in TABLES[name].rows:
            datasets = set(TABLES[name].datasets) & set(SCALES['small'].datasets)
            assert part.count(f'| {row.label} |') == len(datasets)


def test_what_diverged_is_counted_and_in_no_mean(tmp_path):
    accuracies = {
        'adam-half': {0: 0.40, 1: 0.50, 2: 0.45},
        'diffgrad': {0: 0.42, 1: None, 2: 0.46},
        'sgdm': {0: None},
    }
    record = filled(tmp_path, accuracies)
    first = render.render(record, SCALES['small'], 'pebbles').split('\n### ')[1]
    half = '(2), 1 diverged'
    assert f'| diffGrad | 94.08 | 44.00 ± 2.83 {half} | 1.50 ± 0.71 {half} |' in first
    assert '| SGDM | 90.15 | 1 diverged | 1 diverged |' in first
    assert 'seeds that both were run with: 1.50 ± 0.50 points' in first
    assert 'standard error, 2 pairs), 1 with a run that diverged.' in first


def test_pairs_of_which_all_diverged_were_run(tmp_path):
    record = filled(tmp_path, {'adam-half': {0: 0.4}, 'diffgrad': {0: None}})
    text = render.render(record, SCALES['small'], 'pebbles')
    assert 'seeds that both were run with: 1 with a run that diverged.' in text


def test_the_outlook_is_that_of_runs_that_ended(tmp_path):
    def configs(optimizer, seeds):
        cell = Cell('cifar10', 128, optimizer, 'relu')
        return [configure(cell, SCALES['small'], seed, None) for seed in seeds]

    record = filled(tmp_path, {'adam': {0: 0.4}, 'sgdm': {0: None, 1: None}})
    ended, diverged = configs('adam', range(4)), configs('sgdm', range(4))
    mixed = dict(enumerate(ended + diverged))
    assert run.outlook(mixed, record).startswith('missing: 5, about 5 min')
    assert 'the first will tell' in run.outlook(dict(enumerate(diverged)), record)
    assert run.outlook(dict(enumerate(diverged[:2])), record) == 'nothing is missing'


def test_runs_of_another_scale_are_not_shown(tmp_path):
    record = filled(tmp_path, {'adam': {0: 0.4}})
    text = render.render(record, SCALES['paper'], 'pebbles')
    assert '(1)' not in text and 'both were run with: not run.' in text


@pytest.mark.parametrize(
    'results', sorted(RESULTS.glob('tables-*.jsonl')), ids=lambda path: path.stem
)
def test_the_committed_tables_are_of_the_committed_runs(results):
    name = results.stem.removeprefix('tables-')
    images = 'digits' if name == 'digits' else 'CIFAR-10 recompressed as JPEG'
    text = render.render(Record(results), SCALES[name], images)
    assert results.with_suffix('.md').read_text(encoding='utf-8') == text


def test_at_the_small_scale_diffgrad_stays_with_half_the_rate():
    record, scale = Record(RESULTS / 'tables-small.jsonl'), SCALES['small']
    adam, half, diffgrad, relative = (
        render.accuracies(record, scale, Cell('cifar10', 128, optimizer, 'relu'))
        for optimizer in (
            'adam',
            'adam-half',
            'diffgrad',
            'adam+friction=relative_dfc',
        )
    )
    seeds = adam.keys() & half.keys() & diffgrad.keys() & relative.keys()
    assert seeds
    for seed in seeds:
        assert abs(diffgrad[seed] - half[seed]) < 0.5 * (adam[seed] - half[seed])
    means = [fmean(of[s] for s in seeds) for of in (half, relative, adam)]
    assert means == sorted(means)
