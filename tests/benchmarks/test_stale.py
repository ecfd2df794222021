"""A record whose code has changed since its commit is listed."""

import subprocess

import pytest

from benchmarks import stale

CODE = '"""Doc."""\nx = 1\n'
RECORDS = {
    'lm-a.jsonl': '{"commit": "%s"}',
    'b.json': '{}',
    'c.json': '{"commit": "0"}',
}


@pytest.fixture
def repository(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write('diffgrad_optax/a.py', CODE)
    write('experiments/lm/run.py', CODE)
    write('experiments/study/run.py', CODE)
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    for arguments in (['init', '-q'], ['add', '.'], [*identity, 'commit', '-qm', 'a']):
        subprocess.run(['git', '-C', tmp_path, *arguments], check=True)
    commit = stale.git(tmp_path, 'rev-parse', '--short', 'HEAD').strip()
    for name, text in RECORDS.items():
        write(f'docs/results/{name}', text.replace('%s', commit))
    return tmp_path, commit


def listed(repository, capsys):
    stale.report(repository[0])
    return capsys.readouterr().out.splitlines()


UNKNOWN = [
    'docs/results/b.json: names no commit',
    'docs/results/c.json: its commit 0 is not in this repository',
]


def test_comments_and_docstrings_make_no_record_stale(repository, capsys):
    path = repository[0] / 'experiments/lm/run.py'
    path.write_text('"""Other."""\n# Why.\nx  =  1\n')
    assert listed(repository, capsys) == UNKNOWN


def test_a_changed_value_in_the_program_or_the_package_makes_it_stale(
    repository, capsys
):
    root, commit = repository
    (root / 'experiments/study/run.py').write_text('x = 2\n')
    assert listed(repository, capsys) == UNKNOWN
    (root / 'experiments/lm/run.py').write_text('x = 2\n')
    (root / 'diffgrad_optax/a.py').unlink()
    files = 'diffgrad_optax/a.py, experiments/lm/run.py'
    stale_line = f'docs/results/lm-a.jsonl: since {commit} changed {files}'
    assert listed(repository, capsys) == [*UNKNOWN, stale_line]
