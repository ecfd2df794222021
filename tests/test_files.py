"""No program of ours writes over what it has not made itself."""

import json
import shutil
from pathlib import Path

import pytest

from examples.cifar import compare
from examples.common import cli
from examples.common.cli import UserError
from examples.common.files import check_replaceable
from examples.landscapes import run as landscapes
from examples.regret import run as regret
from examples.study import run as study
from examples.tables import render
from examples.toy import run as toy

PUBLISHED = Path(__file__).parents[1] / 'docs/results'
TOY = ('--steps', '3', '--optimizers', 'adam')
LANDSCAPES = (
    *('--functions', 'beale', '--optimizers', 'adam'),
    *('--steps', '3', '--starts', '2', '--shown', '2'),
)
REGRET = ('--rounds', '30', '--problems', 'adam-periodic')
DIGITS = ('--dataset', 'digits', '--model', 'mlp', '--epochs', '1', '--seeds', '0')
PROGRAMS = {
    'paths.json': (toy.main, TOY),
    'paths.png': (toy.main, TOY),
    'landscapes.json': (landscapes.main, LANDSCAPES),
    'landscapes.html': (landscapes.main, LANDSCAPES),
    'regret.json': (regret.main, REGRET),
    'regret.md': (regret.main, REGRET),
    'results.json': (compare.main, DIGITS),
    'table.md': (compare.main, DIGITS),
}


@pytest.mark.parametrize('name', PROGRAMS)
@pytest.mark.parametrize('text', ['mine', '{"mine": 1}', '[1]', ''])
def test_files_of_others_are_not_written_over(name, text, tmp_path):
    main, arguments = PROGRAMS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        main([*arguments, '--out-dir', str(tmp_path)])
    assert (tmp_path / name).read_text() == text
    assert {path.name for path in tmp_path.iterdir()} <= {name, 'lock'}


@pytest.mark.parametrize(
    ('main', 'arguments', 'other', 'name'),
    [
        (toy.main, TOY, ('--steps', '4'), 'paths.json'),
        (landscapes.main, LANDSCAPES, ('--functions', 'rosenbrock'), 'landscapes.json'),
        (regret.main, REGRET, ('--rounds', '31'), 'regret.json'),
    ],
)
def test_results_of_other_settings_are_not_written_over(
    main, arguments, other, name, tmp_path
):
    out_dir = ('--out-dir', str(tmp_path))
    main([*arguments, *out_dir])
    first = json.loads((tmp_path / name).read_text())
    with pytest.raises(UserError, match=f'{name} is there .*choose another --out-dir'):
        main([*arguments, *other, *out_dir])
    assert json.loads((tmp_path / name).read_text()) == first
    main([*arguments, *out_dir])
    assert json.loads((tmp_path / name).read_text()) == first


def test_a_study_does_not_draw_over_a_file_of_another(tmp_path):
    (tmp_path / 'mine.md').write_text('mine')
    results = str(tmp_path / 'mine.jsonl')
    with pytest.raises(UserError, match=r'mine\.md is there without mine\.jsonl'):
        study.main(['--results', results, '--runs-dir', str(tmp_path / 'runs')])
    assert (tmp_path / 'mine.md').read_text() == 'mine'


@pytest.mark.parametrize('others', [None, 'study-cifar10-small.jsonl'])
def test_a_study_without_runs_draws_nothing(others, tmp_path, capsys):
    results = tmp_path / 'results.jsonl'
    if others is not None:
        shutil.copy(PUBLISHED / others, results)
    arguments = ['--results', str(results), '--runs-dir', str(tmp_path / 'runs')]
    study.main([*arguments, '--minutes', '0'])
    assert 'nothing to draw' in capsys.readouterr().out
    assert not [*tmp_path.glob('*.md'), *tmp_path.glob('*.png')]


@pytest.mark.parametrize(
    ('main', 'name'),
    [(study.main, 'study-digits.jsonl'), (render.main, 'tables-digits.jsonl')],
)
def test_a_table_is_not_drawn_over_its_results(main, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / 'mine.md'
    shutil.copy(PUBLISHED / name, results)
    with pytest.raises(UserError, match=r'mine\.md would be drawn over'):
        main(['--results', str(results)])
    assert results.read_bytes() == (PUBLISHED / name).read_bytes()


def test_a_directory_is_no_result(tmp_path):
    (tmp_path / 'result.json').mkdir()
    with pytest.raises(IsADirectoryError):
        check_replaceable(tmp_path / 'result.json', dict, {})


@pytest.mark.parametrize('below', ['', 'deeper'])
def test_a_file_in_the_way_of_a_folder_ends_with_one_line(below, tmp_path, capsys):
    file = tmp_path / 'file'
    file.touch()
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: toy.main([*TOY, '--out-dir', str(file / below)]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {file}') and error.count('\n') == 1


@pytest.mark.parametrize('minutes', ['-1', 'nan'])
def test_minutes_are_a_number_of_them(minutes, tmp_path):
    results = str(tmp_path / 'results.jsonl')
    with pytest.raises(UserError, match=f'--minutes {float(minutes)} must be at least'):
        study.main(['--results', results, '--minutes', minutes])
