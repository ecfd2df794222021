"""What gradients that are not finite do: what docs/faults.md says, and no more."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from registry import REGISTRY, cases

from diffgrad_optax import dequantize_state

PAGE = (Path(__file__).parent.parent / 'docs' / 'faults.md').read_text()
FAULTS = {'NaN': np.nan, '∞': np.inf, '-∞': -np.inf}

# The fault comes when every branch on the step count has been taken, and at a step at
# which no dropout drops it. What lasts from then to the end lasts for ever.
STEPS, BAD = 20, 8
ELEMENT = (1, 1)
WHOLE = ()

# An array's elements by how far they are from the fault's: itself, the others of its
# block (the quantized entries have blocks of one row), of its array, of the tree.
REGIONS = ('element', 'block', 'array', 'tree')
DISTANCES = {'w': np.array([[2, 2, 2], [1, 0, 1]]), 'b': np.array([3, 3, 3])}


def normal(seed, *leading):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(*leading, *array.shape)).astype('float32')
        for name, array in DISTANCES.items()
    }


PARAMS = jax.tree.map(jnp.asarray, normal(0))
GRADS = normal(1, STEPS)


def with_fault(value, where):
    """The gradients of all steps, one element or a whole array of them spoiled."""
    grads = jax.tree.map(np.copy, GRADS)
    grads['w'][(BAD, *where)] = value
    return grads


class Run(NamedTuple):
    """An entry's name, and its run with so many consecutive errors allowed."""

    name: str
    steps: Callable[[int, Any], Any]


def compiled(name):
    opt = REGISTRY[name].make(**REGISTRY[name].kwargs)

    @jax.jit
    def steps(errors, grads):
        finite = optax.apply_if_finite(opt, errors)

        def step(state, grad):
            updates, state = finite.update(grad, state, PARAMS)
            return state, (state.inner_state, {'update': updates})

        return jax.lax.scan(step, finite.init(PARAMS), grads)[1]

    return Run(name, steps)


def numbers(tree):
    """`tree` in NumPy, its random keys as the numbers that they are."""

    def array(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(array, tree)


def unprotected(run, grads):
    """States, decoded, and updates of all steps.

    With no error allowed `optax.apply_if_finite` lets every gradient pass.
    """
    return numbers(dequantize_state(run.steps(0, grads)))


def durations(marks):
    """How long each part of a run is marked, by its name and region.

    Args:
      marks: the run with booleans for numbers.
    """
    found = {}
    for path, mark in jax.tree_util.tree_leaves_with_path(marks):
        names = [getattr(key, 'name', getattr(key, 'key', None)) for key in path]
        distances = DISTANCES.get(names[-1], np.array(0))
        what = [x for x in names if isinstance(x, str) and x not in DISTANCES][-1]
        for distance, region in enumerate(REGIONS):
            steps = mark[BAD:, distances == distance].any(axis=1)
            if steps.any():
                found[what, region] = 1 + np.flatnonzero(steps)[-1]
    return found


def described(found):
    """`durations` as the page has them: a region stands for those inside it."""
    parts = {}
    for (what, region), duration in found.items():
        wider = REGIONS[REGIONS.index(region) + 1 :][:1]
        if found.get((what, *wider)) == duration:
            continue
        name = what if what == 'update' else f'`{what}`'
        where = '' if region == 'element' else f' ({region})'
        parts.setdefault(duration, []).append(name + where)
    lines = [
        f'{length(duration)}: {", ".join(sorted(parts[duration]))}'
        for duration in sorted(parts, reverse=True)
    ]
    return '; '.join(lines) or 'nothing'


def length(duration):
    if duration == STEPS - BAD:
        return 'for ever'
    return '1 step' if duration == 1 else f'{duration} steps'


def cells():
    """The page's table: (transformation, gradient) to (not finite, only other)."""
    found = {}
    for row in re.findall(r'^\| `.*\|$', PAGE, re.M):
        names, faults, *effects = (cell.strip() for cell in row.strip('|').split('|'))
        for name in re.findall(r'`(.+?)`', names):
            for fault in FAULTS if faults == 'any' else faults.split(', '):
                assert (name, fault) not in found
                found[name, fault] = effects
    return found


def test_the_table_has_every_transformation_and_no_other():
    assert set(cells()) == {(name, fault) for name in REGISTRY for fault in FAULTS}


def differing(actual, expected):
    return jax.tree.map(lambda x, y: np.isfinite(x) & (x != y), actual, expected)


def not_finite(tree):
    return jax.tree.map(lambda x: ~np.isfinite(x), tree)


def check_one_element_does_what_the_table_says(run):
    clean = unprotected(run, GRADS)
    found = {}
    for fault, value in FAULTS.items():
        spoiled = unprotected(run, with_fault(value, ELEMENT))
        marks = not_finite(spoiled), differing(spoiled, clean)
        found[fault] = [described(durations(mark)) for mark in marks]
    assert found == {fault: cells()[run.name, fault] for fault in FAULTS}


def check_a_whole_array_does_to_its_elements_what_one_does_to_itself(run):
    for value in FAULTS.values():
        one, whole = (
            durations(not_finite(unprotected(run, with_fault(value, where))))
            for where in (ELEMENT, WHOLE)
        )
        of_element = {key: one[key] for key in one if key[1] == 'element'}
        assert {key: whole[key] for key in of_element} == of_element
        assert not any(region == 'tree' for _, region in whole)


def check_behind_apply_if_finite_it_never_came(run):
    # Another one at the end, for as many steps.
    without = {
        name: np.append(np.delete(g, BAD, axis=0), g[:1], axis=0)
        for name, g in GRADS.items()
    }
    expected = jax.tree.map(lambda x: x[:-1], numbers(run.steps(5, without)))
    for value in FAULTS.values():
        for where in (ELEMENT, WHOLE):
            states, updates = numbers(run.steps(5, with_fault(value, where)))
            for x in jax.tree.leaves(states):
                np.testing.assert_array_equal(x[BAD], x[BAD - 1])
            for x in jax.tree.leaves(updates):
                np.testing.assert_array_equal(x[BAD], 0)
            others = jax.tree.map(
                lambda x: np.delete(x, BAD, axis=0), (states, updates)
            )
            chex.assert_trees_all_equal(others, expected)


@pytest.mark.parametrize('name', cases())
def test_a_fault_does_what_the_page_says(name):
    # One test, because compiling takes nearly all of its time.
    run = compiled(name)
    check_one_element_does_what_the_table_says(run)
    check_a_whole_array_does_to_its_elements_what_one_does_to_itself(run)
    check_behind_apply_if_finite_it_never_came(run)


def checked(opt):
    """What checkify finds in three steps of `opt` on zero gradients, or None."""
    params = jnp.ones((2, 3))

    def step(state, grad):
        return opt.update(grad, state, params)[::-1]

    def steps(state):
        return jax.lax.scan(step, state, jnp.zeros((3, 2, 3)))

    check = jax.jit(checkify.checkify(steps, errors=checkify.float_checks))
    return check(opt.init(params))[0].get()


@pytest.mark.parametrize('name', cases())
def test_zero_gradients_make_no_nan_even_where_it_would_be_discarded(name):
    opt = REGISTRY[name].make(**REGISTRY[name].kwargs)
    found = checked(opt)
    if name == 'with_friction-radam' and found:
        # optax.radam takes the root of a negative number before it rectifies.
        assert found.splitlines()[0] == checked(optax.radam(1e-2)).splitlines()[0]
    else:
        assert found is None
