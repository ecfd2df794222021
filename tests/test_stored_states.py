"""States that an earlier version stored go on: their fields and dtypes are promised.

    python tests/test_stored_states.py

adds the states of those transformations in `registry.py` that `recorded/states.json`
lacks. What is there stays: users have checkpoints with these names.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import REGISTRY

PATH = Path(__file__).parent / 'recorded' / 'states.json'
RECORDED = json.loads(PATH.read_text()) if PATH.exists() else {}
STEPS = 2


def problem():
    """Parameters, and a gradient for each of the steps and for one more."""
    rng = np.random.default_rng(0)
    shapes = {'kernel': (2, 3), 'bias': (3,)}
    params, *grads = (
        {name: jnp.asarray(rng.normal(size=s), 'float32') for name, s in shapes.items()}
        for _ in range(STEPS + 2)
    )
    return params, grads


def made(name):
    return REGISTRY[name].make(**REGISTRY[name].kwargs)


def written(tree):
    """The dtype and the numbers of each leaf, by its path."""
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = jax.random.key_data(leaf)
        else:
            inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
            numbers = leaf.astype('float32') if inexact else leaf
        leaves[jax.tree_util.keystr(path)] = [str(leaf.dtype), numbers.tolist()]
    return leaves


def read(leaves, like):
    """The tree that was written, with the containers of `like`."""

    def leaf(path, there):
        dtype, numbers = leaves[jax.tree_util.keystr(path)]
        assert dtype == str(there.dtype)
        if jnp.issubdtype(there.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(numbers, 'uint32'))
        return jnp.array(numbers, there.dtype)

    return jax.tree.map_with_path(leaf, like)


def record(name):
    """The state after the steps, and the updates of one step more."""
    params, (*grads, last) = problem()
    optimizer = made(name)
    state = optimizer.init(params)
    for grad in grads:
        _, state = optimizer.update(grad, state, params)
    updates, _ = optimizer.update(last, state, params)
    return {'state': written(state), 'updates': written(updates)}


def test_a_state_of_each_transformation_is_stored():
    assert RECORDED.keys() == REGISTRY.keys()


@pytest.mark.parametrize('name', RECORDED)
def test_a_stored_state_is_read_and_goes_on(name, float32):
    params, (*_, grads) = problem()
    optimizer = made(name)
    empty = optimizer.init(params)
    assert RECORDED[name]['state'].keys() == written(empty).keys()
    state = read(RECORDED[name]['state'], empty)
    updates, _ = optimizer.update(grads, state, params)
    expected = read(RECORDED[name]['updates'], updates)
    jax.tree.map(
        lambda actual, desired: np.testing.assert_allclose(actual, desired, rtol=1e-5),
        updates,
        expected,
    )


if __name__ == '__main__':
    states = {name: record(name) for name in REGISTRY} | RECORDED
    lines = (f'{json.dumps(name)}: {json.dumps(states[name])}' for name in states)
    PATH.write_text('{\n' + ',\n'.join(lines) + '\n}\n')
