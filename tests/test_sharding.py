"""Every public transformation, sharded over eight devices, is the unsharded one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry import REGISTRY

TESTS = Path(__file__).parent
NAMES = [*REGISTRY, 'diffgrad-dfc4', 'diffgrad-dfc5']
AXES = ('Auto', 'Explicit')
# How many sums over a whole array the equations have.
SUMS = {
    **{f'diffgrad-dfc{i}': 2 for i in (3, 4, 5)},  # mean and deviation
    'diffgrad-relative': 1,  # mean square
    'swats': 2,  # of what the rate is a quotient of
    'swats-switching': 2,
    'correct_by_difference': 1,  # norm
    'mars': 1,
}
# Over both axes of the kernel's mesh one after the other, and over the bias's one.
REDUCTIONS = 2 + 1


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    child = subprocess.run(
        [
            sys.executable,
            TESTS / 'on_eight_devices.py',
            tmp_path_factory.mktemp('states'),
        ],
        env=os.environ | {'PYTHONPATH': str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    count, found = json.loads(child.stdout.splitlines()[-1])
    assert count == 8
    return found


@pytest.mark.parametrize('axes', AXES)
@pytest.mark.parametrize('name', NAMES)
def test_state_is_sharded_like_its_parameters_from_the_start(found, name, axes):
    facts = found[f'{name}, {axes}']
    assert facts['eager init'] and facts['jitted init'] and facts['update']


@pytest.mark.parametrize('name', NAMES)
def test_a_sharded_run_is_the_unsharded_one(found, name):
    # Sums in another order are other numbers, and AdaDiff's is fused otherwise.
    assert found[f'{name}, Auto']['difference'] < 1e-5
    if name.startswith('diffgrad') and name not in SUMS:
        assert found[f'{name}, Auto']['difference'] == 0


@pytest.mark.parametrize('name', NAMES)
def test_devices_exchange_the_sums_that_the_equations_have_and_nothing_else(
    found, name
):
    exchanged = ','.join(found[f'{name}, Auto']['collectives'])
    scalars = exchanged.count('f32[]')
    assert exchanged.count('[') == scalars == REDUCTIONS * SUMS.get(name, 0)


@pytest.mark.parametrize('name', NAMES)
def test_state_is_restored_on_another_mesh(found, name):
    assert found[f'{name}, Auto']['restored']
