"""What holds for every example: one file, one-line errors."""

import ast
import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

from examples import cifar, first_loop, lm

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / 'examples').glob('*.py'))
ALLOWED = {
    *('diffgrad_optax', 'flax', 'jax', 'matplotlib', 'numpy', 'optax', 'orbax'),
    *('scipy', 'sklearn', 'tqdm'),
    *sys.stdlib_module_names,
}


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.name)
def test_an_example_imports_nothing_of_ours_but_the_package(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition('.')[0])
    assert 'diffgrad_optax' in imported
    assert imported <= ALLOWED


def test_there_are_three_examples():
    names = [path.name for path in EXAMPLES]
    assert names == ['cifar.py', 'first_loop.py', 'lm.py']


def commands():
    """The module and arguments of each command in the examples and on pages."""
    for path in (*EXAMPLES, ROOT / 'Makefile', ROOT / 'docs' / 'examples.md'):
        text = re.sub(r'\\\n\s*', '', path.read_text(encoding='utf-8'))
        for name, rest in re.findall(r'python examples/(\w+)\.py(.*)', text):
            yield name, shlex.split(rest, comments=True)


@pytest.mark.parametrize(('name', 'arguments'), list(commands()))
def test_a_command_of_an_example_or_a_page_is_parsed(name, arguments, monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 8)
    module = {'cifar': cifar, 'first_loop': first_loop, 'lm': lm}[name]
    settings = vars(module.parse(arguments))
    flags = [a[2:].replace('-', '_') for a in arguments if a.startswith('--')]
    assert set(flags) <= set(settings)


def test_commands_are_found_in_every_place():
    names = [name for name, _ in commands()]
    assert {name: names.count(name) > 2 for name in names} == {
        'cifar': True,
        'first_loop': True,
        'lm': True,
    }


@pytest.mark.parametrize(
    ('module', 'arguments', 'words'),
    [
        (first_loop, '--epochs 0', ["'0'", 'whole number of at least 1']),
        (first_loop, '--learning-rate nan', ["'nan'", 'number of at least 0']),
        (first_loop, '--friction none', ["'none'", 'relative_dfc']),
        (cifar, '--epochs 0', ["'0'", 'positive int']),
        (cifar, '--learning-rate -1', ["'-1'", 'positive float']),
        (cifar, '--optimizer sgd', ["'sgd'", 'adam-half']),
        (cifar, '--data foo', ['unrecognized arguments: --data foo']),
        (lm, '--steps x', ["'x'", 'positive int']),
        (lm, '--heads 3', ['--width 128', 'multiple of 6']),
        (lm, '--model-parallel 3', ['--heads 4', 'multiple of 3']),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    module, arguments, words, monkeypatch, capsys
):
    monkeypatch.setattr(sys, 'argv', ['example', *arguments.split()])
    with pytest.raises(SystemExit) as refused:
        module.main()
    message = capsys.readouterr().err or str(refused.value)
    assert message.startswith('error: ')
    assert len(message.strip().splitlines()) == 1
    assert all(word in message for word in words), message


def test_the_first_loop_learns_and_shows_coefficients_of_at_least_one_half(capsys):
    first_loop.train(learning_rate=0.01, friction='dfc', epochs=2, seed=0)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ['epoch', '2']
    assert float(last[last.index('accuracy') + 1].rstrip('%')) > 90
    coefficients = [float(last[last.index(name) + 1]) for name in ('w1', 'w2')]
    assert all(0.5 <= xi < 0.6 for xi in coefficients)
