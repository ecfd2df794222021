"""No program of ours writes over what it has not made itself."""

import ast
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.cifar import compare
from experiments.cifar import plan as plans
from experiments.half_rate import run as half_rate
from experiments.lab import cli
from experiments.lab import lock as locks
from experiments.lab.cli import UserError
from experiments.lab.output_files import check_replaceable
from experiments.lab.record import Record
from experiments.landscapes import run as landscapes
from experiments.regret import run as regret
from experiments.toy import run as toy

PUBLISHED = Path(__file__).parents[2] / 'docs/results'
TOY = ('--steps', '3', '--optimizers', 'adam')
LANDSCAPES = (
    *('--functions', 'beale', '--optimizers', 'adam'),
    *('--steps', '3', '--starts', '2', '--shown', '2'),
)
REGRET = ('--rounds', '30', '--problems', 'adam-periodic')
DIGITS = ('--dataset', 'digits', '--model', 'mlp', '--epochs', '1', '--seeds', '0')
SMOKE = ('--smoke', '--minutes', '0')
PROGRAMS = {
    'paths.json': (toy.main, TOY),
    'paths.png': (toy.main, TOY),
    'landscapes.json': (landscapes.main, LANDSCAPES),
    'landscapes.html': (landscapes.main, LANDSCAPES),
    'regret.json': (regret.main, REGRET),
    'regret.md': (regret.main, REGRET),
    'compare.json': (compare.main, DIGITS),
    'compare.md': (compare.main, DIGITS),
    'compare-curves-digits.png': (compare.main, DIGITS),
    **dict.fromkeys((half_rate.DONE, *half_rate.SHOWN), (half_rate.main, SMOKE)),
    'tables-digits.json': (plans.main, SMOKE),
    'tables-digits.md': (plans.main, SMOKE),
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


@pytest.mark.slow
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


def test_runs_of_others_are_noticed_before_anything_is_trained(tmp_path):
    (tmp_path / 'half_rate-mlp.jsonl').write_text('mine')
    with pytest.raises(UserError, match=r'mlp\.jsonl ends with what is no result'):
        half_rate.main([*SMOKE, '--out-dir', str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ['half_rate-mlp.jsonl']


@pytest.mark.parametrize('done', [True, False], ids=['done', 'under way'])
def test_results_of_another_scale_are_not_written_over(done, tmp_path):
    for path in PUBLISHED.glob('half_rate*'):
        if done or path.suffix != '.json':
            shutil.copy(path, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ending = 'json' if done else 'md'
    with pytest.raises(UserError, match=rf'half_rate\.{ending} is'):
        half_rate.main([*SMOKE, '--out-dir', str(tmp_path)])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_plan_does_not_draw_over_a_file_of_another(tmp_path):
    picture = tmp_path / 'study-digits-sgd-digits.png'
    picture.write_text('mine')
    with pytest.raises(UserError, match=f'{picture.name} is there without'):
        plans.main(['--plan', 'study', '--out-dir', str(tmp_path)])
    assert picture.read_text() == 'mine'


def test_a_plan_without_runs_draws_nothing(tmp_path, capsys):
    arguments = ['--plan', 'study', '--out-dir', str(tmp_path)]
    plans.main([*arguments, '--minutes', '0'])
    assert '0 of 60 runs' in capsys.readouterr().out
    assert not [*tmp_path.glob('*.md'), *tmp_path.glob('*.png')]


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


def test_a_full_disk_that_names_no_file_ends_with_one_line(capsys):
    def write():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit) as stop:
        cli.run(write)
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: No space left on device\n'


def test_what_is_written_is_utf_8_whatever_the_locale(tmp_path):
    program = (
        'from pathlib import Path\n'
        'from experiments.lab.output_files import write_atomically\n'
        'assert open(0).encoding != "utf-8"\n'
        'write_atomically(Path("table.md"), "1 \\xb1 1")\n'
    )
    ascii_only = {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, '-c', program],
        env=os.environ | ascii_only | {'PYTHONPATH': root},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / 'table.md').read_bytes() == '1 ± 1'.encode()


def test_text_files_are_opened_as_utf_8():
    root = Path(__file__).parents[2]
    for file in (*root.glob('experiments/**/*.py'), *root.glob('benchmarks/**/*.py')):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and re.search(
                r'(^|\.)(open|read_text|write_text|TextIOWrapper)$',
                ast.unparse(node.func),
            ):
                said = ast.unparse(node)
                assert re.search(r"encoding='utf-8'|'[rwax+]*b[rwax+]*'|'r:gz'", said)


def test_characters_that_the_console_lacks_are_printed_as_escapes(tmp_path):
    program = 'from experiments.lab import cli\ncli.run(lambda: print("1 \xb1 1"))\n'
    done = subprocess.run(
        [sys.executable, '-c', program],
        env=os.environ | {'PYTHONIOENCODING': 'ascii'},
        cwd=Path(__file__).parents[1],
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b'1 \\xb1 1\n'), done.stderr


@dataclass(frozen=True)
class Places:
    folder: Path = Path('here')
    files: tuple[Path, ...] = ()
    other: Path | None = None


def test_a_path_begins_at_a_home_directory_that_there_is(monkeypatch):
    monkeypatch.setenv('HOME', '/home/mine')
    arguments = ['--folder=~/a', '--files', 'b', '~/c', '--other', '~']
    assert cli.parse(Places, arguments) == Places(
        Path('/home/mine/a'), (Path('b'), Path('/home/mine/c')), Path('/home/mine')
    )
    with pytest.raises(UserError, match=r'--other: ~nosuchuser/x begins with no home'):
        cli.parse(Places, ['--other', '~nosuchuser/x'])


@pytest.mark.parametrize('url', ['gs://bucket/run', 's3://b', 'file:///tmp/run'])
def test_a_url_is_no_path(url):
    for flag in ('--folder', '--files', '--other'):
        with pytest.raises(UserError, match=f'{flag}: {url} is a URL, .* local path'):
            cli.parse(Places, [flag, url])


def test_every_flag_that_is_a_path_is_read_as_one():
    root = Path(__file__).parents[2]
    for file in (*root.glob('experiments/**/*.py'), *root.glob('benchmarks/**/*.py')):
        assert 'type=Path' not in file.read_text(encoding='utf-8'), file


@pytest.fixture
def flock(monkeypatch):
    """Makes `fcntl.flock` fail with an error number."""

    def fail_with(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(locks.fcntl, 'flock', flock)

    return fail_with


@pytest.mark.parametrize('number', ['ENOSYS', 'ENOLCK', 'EOPNOTSUPP'])
def test_without_locks_a_run_goes_on_after_a_warning(number, flock, tmp_path, capsys):
    flock(getattr(errno, number))
    with locks.held(tmp_path):
        pass
    Record(tmp_path / 'a.jsonl').add({'settings': {}, 'metrics': []})
    assert len(Record(tmp_path / 'a.jsonl').runs) == 1
    warnings = capsys.readouterr().err.splitlines()
    for line, name in zip(warnings, ('lock', 'a.jsonl'), strict=True):
        assert line.startswith(f'warning: {tmp_path / name} cannot be locked (')


def test_a_lock_that_fails_otherwise_stops_the_program(flock, tmp_path):
    flock(errno.EIO)
    with pytest.raises(OSError), locks.held(tmp_path):
        pass


def test_where_there_is_no_fcntl_programs_are_refused_in_one_line(tmp_path):
    program = (
        'import sys\n'
        'sys.modules["fcntl"] = None\n'
        'from pathlib import Path\n'
        'from experiments.lab import cli, record\n'
        'cli.run(lambda: record.held(Path(sys.argv[1])).__enter__())\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program, tmp_path],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    said = f'error: {tmp_path}/lock cannot be locked: run this on Linux or macOS\n'
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize('minutes', ['-1', 'nan'])
def test_minutes_are_a_number_of_them(minutes, tmp_path):
    with pytest.raises(UserError, match=f'--minutes {float(minutes)} must be at least'):
        plans.main(['--out-dir', str(tmp_path), '--minutes', minutes])
