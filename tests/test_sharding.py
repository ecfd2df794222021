"""Every public transformation, sharded over eight devices, is the unsharded one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from devices import cpu_devices
from on_eight_devices import EVERY_KIND
from registry import REGISTRY, Entry

TESTS = Path(__file__).parent
NAMES = [*EVERY_KIND, 'diffgrad-dfc4', 'diffgrad-dfc5', 'constant friction']
# One of each kind of state and of exchange; `make test-all` has the others.
ALWAYS = (
    *('diffgrad', 'diffgrad-dfc3', 'swats', 'scale_by_gains'),
    *('quantize_state-diffgrad', 'constant friction'),
)
AXES = ('Auto', 'Explicit')
# How many sums over a whole array the equations have.
SUMS = {
    **{f'diffgrad-dfc{i}': 2 for i in (3, 4, 5)},  # mean and deviation
    'diffgrad-relative': 1,  # mean square
    'swats': 2,  # of what the rate is a quotient of
    'correct_by_difference': 1,  # norm
    'mars': 1,
}
# Over both axes of the kernel's mesh one after the other, and over the one of the bias
# and of the embedding.
REDUCTIONS = 2 + 1 + 1


def on_eight_devices(directory, names):
    child = subprocess.run(
        [sys.executable, TESTS / 'on_eight_devices.py', directory, *names],
        env=os.environ | cpu_devices(8) | {'PYTHONPATH': f'{TESTS.parent}:{TESTS}'},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    count, found = json.loads(child.stdout.splitlines()[-1])
    assert count == 8
    return found


def wrong(name, auto, explicit):
    """What of a transformation's facts is not as it should be."""
    for axes, facts in (('Auto', auto), ('Explicit', explicit)):
        for moment in ('eager init', 'jitted init', 'update'):
            if not facts[moment]:
                yield f'{axes}: state is not sharded like its parameters: {moment}'
    if not explicit['whole gradients']:
        yield 'Explicit: gradients that are whole everywhere leave state that is'
    # SWATS chooses between two states, whose types would not be the same.
    if name != 'swats' and (found := explicit['state that is not split']) is not True:
        yield f'Explicit: state that is whole everywhere does not become split: {found}'
    # Sums in another order are other numbers, and AdaDiff's is fused otherwise.
    exact = name.startswith('diffgrad') and name not in SUMS
    if not auto['difference'] <= (0 if exact else 1e-5):
        yield f'{auto["difference"]} from the unsharded run'
    exchanged = ','.join(auto['collectives'])
    scalars = exchanged.count('f32[]')
    if not exchanged.count('[') == scalars == REDUCTIONS * SUMS.get(name, 0):
        yield f'devices exchange {exchanged}'
    if not auto['restored']:
        yield 'another mesh does not get it back'


def assert_blocks_stay_on_their_device(auto, explicit):
    """Of 8 x 768 numbers a device holds 8 x 96, no multiple of a block of 128."""
    for refusal in (auto['eager'], explicit['eager'], explicit['jitted']):
        for part in (
            'block_size=128 makes blocks of 128 numbers of',
            "['kernel']",
            'each device holds 96',
            '[8, 768]',
            'such as 32',
        ):
            assert part in refusal
    assert auto['jitted'] is None  # the sharding is not known
    for facts in (auto, explicit):
        assert facts['collectives'] == []
        # Three codes for each number, their scales, two counts.
        assert facts['bytes on a device'] == 3 * 8 * (96 + 96 // 32 * 4) + 2 * 4


# One process for many transformations, because each starts eight devices.
@pytest.mark.parametrize(
    'names',
    [
        ALWAYS,
        pytest.param(sorted(set(NAMES) - set(ALWAYS)), marks=pytest.mark.slow),
    ],
    ids=['each kind', 'the others'],
)
def test_state_follows_its_parameters_and_devices_exchange_only_what_is_summed(
    names, tmp_path
):
    found = on_eight_devices(tmp_path, names)
    assert_blocks_stay_on_their_device(*(found.pop(f'blocks, {axes}') for axes in AXES))
    for axes in AXES:
        assert found.pop(f'manual, {axes}') == [0, 0, 0]
    for name in names:
        assert found.pop(f'{name}, alone') <= 1e-6, name
    assert not {
        name: complaints
        for name in names
        if (complaints := [*wrong(name, *(found[f'{name}, {axes}'] for axes in AXES))])
    }


def test_every_public_transformation_is_among_them():
    def public(entry: Entry):
        return entry.public or entry.make

    assert {public(REGISTRY[name]) for name in EVERY_KIND} == {
        public(entry) for entry in REGISTRY.values()
    }
