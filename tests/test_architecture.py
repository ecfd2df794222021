"""Which file of the package may import which: those of the rows above its own."""

import ast
from pathlib import Path

import diffgrad_optax

PACKAGE = Path(diffgrad_optax.__file__).parent
ROWS = (
    ('_checks', '_paths', '_fit', '_sharding'),
    ('_dtypes',),
    ('_params', '_xla', '_optimizer', 'friction', 'schedules'),
    ('_frame',),
    ('_moments', '_quantize'),
    ('_adadiff', '_dropout', '_gains', '_mars', '_radam', '_swats', '_with_friction'),
    ('_diffgrad', '_diffrgrad'),
)


def name_of(path):
    """`_frame` of `_frame.py`, and `_quantize` of all in that folder."""
    return path.relative_to(PACKAGE).with_suffix('').parts[0]


def texts():
    for path in PACKAGE.rglob('*.py'):
        if path != PACKAGE / '__init__.py':
            yield name_of(path), path.read_text('utf-8')


def imported_by(text):
    """The files of the package that a file of it imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition('.')
            if package == 'diffgrad_optax':
                names = [module] if module else [alias.name for alias in node.names]
                yield from (name.partition('.')[0] for name in names)


def test_every_file_has_a_place():
    assert {name for name, _ in texts()} == {name for row in ROWS for name in row}


def test_files_import_those_of_rows_above_their_own():
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    wrong = [
        (name, other)
        for name, text in texts()
        for other in imported_by(text)
        if other != name and row_of[other] >= row_of[name]
    ]
    assert not wrong


def test_compilers_are_spoken_of_in_one_place():
    assert {name for name, text in texts() if 'XLA' in text} == {'_xla'}
