"""Which file of the package may import which: those of the rows above its own."""

import ast
from pathlib import Path

import diffgrad_optax

PACKAGE = Path(diffgrad_optax.__file__).parent
ROWS = (
    ('_kinds', '_params', '_paths', '_fit', '_sharding'),
    ('_checks', '_dtypes'),
    ('_xla', '_optimizer', 'friction', 'schedules'),
    ('_frame', '_codes', '_blocks'),
    ('_moments', '_quantize'),
    ('_adadiff', '_dropout', '_gains', '_mars', '_radam', '_swats', '_with_friction'),
    ('_diffgrad', '_diffrgrad'),
)


def imported_by(name):
    """The files of the package that a file of it imports."""
    for node in ast.walk(ast.parse((PACKAGE / f'{name}.py').read_text('utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition('.')
            if package == 'diffgrad_optax':
                yield from [module] if module else [alias.name for alias in node.names]


def test_every_file_has_a_place():
    names = {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
    assert names == {name for row in ROWS for name in row}


def test_files_import_those_of_rows_above_their_own():
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    wrong = [
        (name, other)
        for name in row_of
        for other in imported_by(name)
        if row_of[other] >= row_of[name]
    ]
    assert not wrong


def test_compilers_are_spoken_of_in_few_places():
    told = {
        path.stem for path in PACKAGE.glob('*.py') if 'XLA' in path.read_text('utf-8')
    }
    assert told <= {'_xla', '_quantize', '_codes'}
