"""A few dozen cases of the fuzz run, always the same, and what it has found."""

import fuzz
import fuzz_cases
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fuzz_cases import MODERATE, Case, Leaf, Spec, Wrong, cases

from diffgrad_optax import adadiff, diffgrad, diffgradw, mars, swats


def run(check, strategy, examples):
    tests = hypothesis.given(strategy)(check)
    # Unshrunk: that is for the fuzz run, which has the time.
    phases = [hypothesis.Phase.generate]
    fuzz.settings(examples, derandomize=True, phases=phases)(tests)()


@pytest.mark.filterwarnings('ignore:overflow encountered in cast')
def test_types_are_kept():
    run(fuzz.keeps_types, fuzz.PROPERTIES[fuzz.keeps_types], 30)


def test_state_stays_finite():
    # Of one kind of array, because each is compiled for itself.
    strategy = cases(MODERATE, [(3,)], ['float32'], x64=True)
    run(fuzz.stays_finite, strategy, 12)


def test_wrong_arguments_are_refused_by_name():
    run(fuzz.refuses_by_name, fuzz.PROPERTIES[fuzz.refuses_by_name], 100)


# That it can fail.


@pytest.mark.parametrize(
    ('check', 'change'),
    [
        (fuzz.keeps_types, lambda x: x.astype('float16')),
        (fuzz.stays_finite, lambda x: x / 0),
    ],
)
def test_a_broken_transformation_is_found(check, change, monkeypatch):
    broken = optax.stateless(lambda updates, _: jax.tree.map(change, updates))
    chain = optax.chain(broken, optax.trace(0.9), broken)
    monkeypatch.setitem(fuzz_cases.OPTAX, 'broken', lambda: chain)
    tree = {'a': Leaf((3,), 'float32')}
    with pytest.raises(AssertionError):
        check(Case(Spec('broken'), tree, None, x64=True, lookahead=False, seed=0))


def test_a_crash_is_found(monkeypatch):
    monkeypatch.setitem(fuzz_cases.FUNCTIONS, 'mars', lambda b1=0: optax.ema(b1 + 1))
    with pytest.raises(AssertionError):
        fuzz.refuses_by_name(Wrong('mars', 'b1', 'x'))


# What it has found.


@pytest.mark.parametrize('make', [adadiff, diffgradw, mars])
@pytest.mark.parametrize('mask', ['x', 0.5, {'w': 1}, np.ones(2)], ids=repr)
def test_a_mask_of_anything_but_booleans_is_refused(make, mask):
    with pytest.raises(TypeError, match='mask must be'):
        make(0.1, mask=mask)


@pytest.mark.parametrize(
    ('make', 'flag'), [(adadiff, 'amsgrad'), (diffgrad, 'nesterov')]
)
@pytest.mark.parametrize('value', ['x', None, 1, np.ones(2)], ids=repr)
def test_a_flag_that_is_no_boolean_is_refused(make, flag, value):
    with pytest.raises(TypeError, match=f'{flag} must be True or False'):
        make(0.1, **{flag: value})


@pytest.mark.parametrize('make', [adadiff, diffgradw, mars, swats])
@pytest.mark.parametrize('argument', ['learning_rate', 'b1', 'b2', 'eps'])
def test_an_array_of_several_numbers_is_refused(make, argument):
    with pytest.raises(TypeError, match=rf'{argument} must be .* got float32\[2\]'):
        make(**{'learning_rate': 0.1, argument: jnp.ones(2, 'float32')})
