"""experiments/lab/facts: which code a result was made with."""

import importlib.metadata
import subprocess

import jax
import pytest

from experiments.lab import environment


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with one commit, whose code asks for its name."""

    def git(*arguments):
        who = ('-c', 'user.name=n', '-c', 'user.email=e')
        subprocess.run(['git', *who, *arguments], cwd=tmp_path, check=True)

    for name in ('code/facts.py', 'docs/results.jsonl'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text('1')
    git('init', '--quiet')
    git('add', '.')
    git('commit', '--quiet', '--message=first')
    monkeypatch.setattr(environment, '__file__', str(tmp_path / 'code' / 'facts.py'))
    monkeypatch.delenv('COMMIT', raising=False)
    return tmp_path


def test_changed_code_is_dirty_and_grown_results_are_not(root):
    name = environment.commit()
    assert len(name) >= 7
    assert not name.endswith('-dirty')
    (root / 'docs/results.jsonl').write_text('2')
    (root / 'runs').mkdir()
    (root / 'runs/new').write_text('3')
    assert environment.commit() == name
    (root / 'code/facts.py').write_text('2')
    assert environment.commit() == f'{name}-dirty'


def test_a_copy_is_told_its_commit(root, monkeypatch):
    monkeypatch.setenv('COMMIT', 'c0ffee')
    assert environment.commit() == 'c0ffee'


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, '__file__', str(tmp_path / 'facts.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    monkeypatch.delenv('COMMIT', raising=False)
    assert environment.commit() is None


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    installed = importlib.metadata.version('diffgrad-optax')

    def version(package):
        if package == 'diffgrad-optax':
            raise importlib.metadata.PackageNotFoundError(package)
        return '1'

    monkeypatch.setattr(environment, 'version', version)
    versions = environment.facts(jax.make_mesh((1,), ('data',)))['versions']
    assert versions['diffgrad-optax'] == installed
    assert versions['optax'] == '1'
