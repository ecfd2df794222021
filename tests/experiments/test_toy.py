"""experiments/toy: the paper's functions, and where optimizers end on them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.lab.cli import UserError
from experiments.toy import run
from experiments.toy.functions import FUNCTIONS

PAGE = (Path(run.__file__).parent / 'README.md').read_text(encoding='utf-8')
ROWS = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in PAGE.splitlines()
    if line.startswith('| ')
][1:]


@pytest.mark.parametrize('title', FUNCTIONS)
def test_the_minima_are_minima_and_the_first_is_the_lowest(title):
    function = FUNCTIONS[title]
    x = np.linspace(function.low, function.high, 170_001)
    value = np.asarray(function.value(x))
    lower = np.diff(value) < 0
    found = x[1:-1][lower[:-1] & ~lower[1:]]
    for minimum in function.minima:
        assert np.abs(found - minimum).min() < 1e-3
    assert abs(x[value.argmin()] - function.minima[0]) < 1e-3


@pytest.mark.parametrize('title', FUNCTIONS)
def test_the_derivatives_are_the_functions_own(title):
    value = FUNCTIONS[title].value
    for x in (-0.95, -0.7, -0.45, -0.2, 0.13, 0.47, 0.55):
        central = (value(x + 1e-6) - value(x - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(value)(x), central, atol=1e-6)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0])
def test_optimizers_end_where_the_readme_says(row):
    name, *ends = row
    optimizer = run.make_optimizers(0.1)[name]
    for title, end in zip(FUNCTIONS, ends, strict=True):
        path = run.path(FUNCTIONS[title], optimizer, 300)
        assert path.shape == (301,) and path.dtype == np.float64
        assert f'{path[-1]:.3f}' == end, title


def test_the_paper_and_the_control_both_leave_the_local_minima():
    ends = {name: [float(x) for x in row] for name, *row in ROWS}
    assert ends['adam'][:2] == [0.2, 0.0]
    assert ends['diffgrad'][:2] == ends['adam-half'][:2] == [-0.3, -0.643]
    assert len(ends) == len(run.make_optimizers(0.1))


def test_the_command_writes_every_position_and_a_picture(tmp_path, capsys):
    arguments = ['--steps', '3', '--optimizers', 'adam', 'diffgrad']
    run.main([*arguments, '--out-dir', str(tmp_path)])
    record = json.loads((tmp_path / 'paths.json').read_text())
    assert {len(x) for of in record['positions'].values() for x in of.values()} == {4}
    assert (tmp_path / 'paths.png').read_bytes().startswith(b'\x89PNG')
    assert '| diffgrad |' in capsys.readouterr().out


def test_positions_that_are_no_numbers_are_null_in_json(tmp_path):
    arguments = ['--steps', '2', '--optimizers', 'adam', '--learning-rate', '1e300']
    for _ in range(2):  # the second over what the first has written
        run.main([*arguments, '--out-dir', str(tmp_path)])
    text = (tmp_path / 'paths.json').read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    start, *rest = record['positions']['F2']['adam']
    assert start == -1.0 and None in rest


@pytest.mark.parametrize(
    'flag', ['--steps=0', '--steps=99999999999', '--learning-rate=nan']
)
def test_settings_without_sense_are_refused(flag, tmp_path):
    with pytest.raises(UserError, match=flag.split('=')[0]):
        run.main([flag, '--out-dir', str(tmp_path)])
