"""The comparison: its rule of tuning, its statistics, and a run that goes on."""

import dataclasses
import gc
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.comparison import convex, data, design, plan, records, render, run
from experiments.comparison.design import Plan
from experiments.comparison.engine import Program, train
from experiments.comparison.statistics import better, differences
from experiments.lab.cli import UserError

ROOT = Path(__file__).parents[2]
TINY = dataclasses.replace(
    design.WORKLOADS['least_squares'],
    steps=20,
    points=4,
    optimizers=('adamw', 'nadamw', 'diffgrad'),
    plan=Plan(rates=3, extensions=2, tuning_seeds=2, seeds=3),
)


def tuned(loss_at, workload=TINY, optimizer='adamw'):
    """All runs that the plan asks for, if the loss is `loss_at` of the exponent."""
    losses = {}
    while runs := plan.missing(workload, optimizer, losses):
        assert not set(runs) & set(losses)
        losses |= {(exponent, seed): loss_at(exponent) for exponent, seed in runs}
    return losses


def test_a_best_rate_inside_the_grid_is_scored_with_other_seeds():
    losses = tuned(lambda exponent: abs(exponent - TINY.rate))
    final = [(TINY.rate, 100 + seed) for seed in range(3)]
    assert [run for run in losses if run[1] >= 100] == final
    assert {exponent for exponent, seed in losses if seed < 100} == {-3, -2, -1}


@pytest.mark.parametrize('side', [-1, 1])
def test_the_grid_grows_towards_a_best_rate_at_its_end_at_most_so_often(side):
    losses = tuned(lambda exponent: -side * exponent)
    rates = {exponent for exponent, seed in losses if seed < 100}
    assert rates == set(range(-7, 0) if side < 0 else range(-3, 4))


def test_a_rate_at_which_a_run_diverged_is_never_chosen():
    losses = {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.0, (1, 1): None}
    assert plan.chosen(losses) == 0


def test_finalists_alone_are_tuned_with_more_seeds_and_scored():
    screening = Plan(rates=3, extensions=0, tuning_seeds=1, more_seeds=2, seeds=2)
    workload = dataclasses.replace(
        TINY, plan=dataclasses.replace(screening, finalists=('adamw',))
    )
    at_its_middle = lambda exponent: abs(exponent + 2)  # noqa: E731
    assert len(tuned(at_its_middle, workload, 'nadamw')) == 3
    assert len(tuned(at_its_middle, workload, 'adamw')) == 3 + 2 * 3 + 2


@pytest.fixture
def no_collection(monkeypatch):
    """statsmodels collects garbage in every call, which takes a tenth of a second."""
    monkeypatch.setattr(gc, 'collect', lambda: 0)


@pytest.mark.usefixtures('no_collection')
def test_of_1000_comparisons_without_a_difference_few_find_one():
    rng = np.random.default_rng(0)
    names = ('adamw', 'nadamw', *'abcdefghij')
    found = 0
    for _ in range(1000):
        seeds = rng.normal(size=10)
        losses = {name: seeds + rng.normal(size=10) for name in names}
        of_names = differences(losses)
        found += any(better(of_names[name]) for name in names[2:])
    assert found <= 64


@pytest.mark.usefixtures('no_collection')
def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        seeds = rng.normal(size=10)
        losses = {name: seeds + 0.1 * rng.normal(size=10) for name in 'abcd'}
        losses |= {
            name: seeds + 0.1 * rng.normal(size=10) for name in ('adamw', 'nadamw')
        }
        losses['a'] = losses['a'] - 0.4
        of_names = differences(losses)
        found.append([better(of_names[name]) for name in 'abcd'])
    assert np.mean(found, axis=0)[0] > 0.95
    assert np.mean(found, axis=0)[1:].max() < 0.05


def test_a_run_that_diverged_is_no_difference():
    of_names = differences(
        {'adamw': [1.0, 2.0], 'nadamw': [1.0, 2.1], 'x': [0.0, np.inf]}
    )
    assert not better(of_names['x'])


@pytest.mark.parametrize('objective', [convex.logistic(), convex.least_squares()])
def test_the_gap_of_a_convex_objective_is_that_of_its_losses(objective, float32):
    w = np.linspace(-1, 1, objective.table[0].shape[1])
    losses, _ = objective.losses(w.astype(np.float32), objective.table)
    far, _ = objective.losses(0 * w.astype(np.float32), objective.table)
    expected = float(losses.mean()) - float(far.mean())
    assert objective.gap(w) - objective.gap(0 * w) == pytest.approx(expected, rel=1e-5)
    assert objective.gap(w) > 0


@pytest.fixture
def quick_training(monkeypatch):
    """Results as of a training whose best rate is the middle of the first grid."""

    def train(program, runs, *, test):
        return [
            {'valid_loss': abs(np.log2(rate) - TINY.rate) + 0.1 * seed, 'number': 1.5}
            | ({'test_loss': 0.1 * seed, 'test_accuracy': None} if test else {})
            | ({'curve': [[10, 2.0, 3.0], [20, 1.0, 2.0]]} if test else {})
            | {'seconds_per_step': 1e-3}
            for rate, seed in runs
        ]

    monkeypatch.setattr(run, 'train', train)


def run_all(path, workload=TINY):
    return list(run.run(workload, path, []))


@pytest.mark.usefixtures('quick_training')
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_lines(tmp_path):
    assert len(run_all(tmp_path / 'whole.jsonl')) >= 6
    whole = (tmp_path / 'whole.jsonl').read_bytes()
    cut = tmp_path / 'cut.jsonl'
    # After a piece, and in the middle of a line of the next.
    cut.write_bytes(whole[: whole.index(b'\n', len(whole) // 2) + 100])
    run_all(cut)
    assert without_times(cut) == without_times(tmp_path / 'whole.jsonl')
    assert run_all(cut) == []


def without_times(path):
    lines = {}
    for line in path.read_text().splitlines():
        read = json.loads(line) | {'seconds_per_step': 0}
        place = read['optimizer'], read['rate'], read['seed']
        assert place not in lines
        lines[place] = read
    return lines


@pytest.mark.usefixtures('quick_training')
def test_runs_of_other_settings_are_never_mixed(tmp_path):
    path = tmp_path / 'runs.jsonl'
    other = dataclasses.replace(TINY, version=TINY.version + 1)
    assert len(run_all(path)) == len(run_all(path, other)) > 0
    lines = records.read(path)
    for workload in (TINY, other):
        checksum = data.checksum(workload.task.load([]))
        done = records.of_key(lines, records.key(workload, checksum))
        versions = {x['settings']['version'] for o in done.values() for x in o.values()}
        assert versions == {workload.version}


@jax.numpy_rank_promotion('allow')
def test_runs_at_once_are_those_one_after_another(float32):
    workload = dataclasses.replace(design.WORKLOADS['logistic'], steps=8, points=2)
    loaded = workload.task.load([])
    program = Program(workload, design.OPTIMIZERS['diffgrad'], loaded)
    runs = [(0.01, 0), (0.02, 1)]
    together = train(program, runs, test=True)
    for pair, result in zip(runs, together, strict=True):
        (alone,) = train(program, [pair], test=True)
        for name in ('train_loss', 'valid_loss', 'test_loss', 'mean_friction'):
            assert alone[name] == pytest.approx(result[name], rel=1e-4), name


@pytest.mark.parametrize(
    ('name', 'optimizer'),
    [('mnist1d', 'adamw'), ('autoencoder', 'diffgrad'), ('logistic', 'lbfgs')],
)
@jax.numpy_rank_promotion('allow')
def test_a_workload_is_learned_from(name, optimizer, float32):
    workload = dataclasses.replace(design.WORKLOADS[name], steps=4, points=1)
    program = Program(workload, design.OPTIMIZERS[optimizer], workload.task.load([]))
    (still, moved) = train(program, [(0.0, 0), (0.001, 0)], test=True)
    assert optimizer == 'lbfgs' or moved['train_loss'] < still['train_loss']
    assert moved['curve'] == [[4, moved['train_loss'], moved['valid_loss']]]


@pytest.mark.usefixtures('quick_training')
def test_the_page_has_complete_workloads_only(tmp_path, monkeypatch):
    monkeypatch.setattr(render, 'WORKLOADS', {'a': TINY, 'b': TINY})
    (tmp_path / 'results').mkdir()
    (tmp_path / 'images').mkdir()
    folders = ['--records', str(tmp_path), '--out-dir', str(tmp_path)]
    with pytest.raises(UserError, match='has no complete workload'):
        render.main(folders)
    run_all(tmp_path / 'a.jsonl')
    render.main(folders)
    page = (tmp_path / 'results' / 'comparison.md').read_text()
    assert '### a' in page
    assert '### b' not in page
    for line in records.read(tmp_path / 'a.jsonl'):
        assert f'\n| {line["optimizer"]} | ' in page


def test_the_published_tables_are_those_of_the_records():
    folder = ROOT / records.FOLDER
    complete = {
        name: scored
        for name, workload in design.WORKLOADS.items()
        if (scored := render.complete(workload, folder / f'{name}.jsonl'))
    }
    page = (ROOT / 'docs' / 'results' / 'comparison.md').read_text()
    assert page == '\n'.join(render.page_lines(complete))
    rows = re.findall(
        r'^\| [^|]+ \| (\S+ \([^|]+\)) \| (\S+ \([^|]+\)) \|$',
        (ROOT / 'README.md').read_text(),
        re.M,
    )
    assert len(rows) == 6
    for cells in rows:
        assert f'| {cells[0]} | {cells[1]} |' in page


def test_an_unknown_workload_and_missing_data_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match='--workloads x must be of mnist1d, '):
        run.main(['--workloads', 'x', '--out-dir', str(tmp_path)])
    with pytest.raises(UserError, match=r'--data-dir has no kjv/ with train.txt, '):
        data.text([tmp_path], 8)
    jax.clear_caches()
