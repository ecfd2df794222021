"""Which leaves of a state belong to which parameter."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from diffgrad_optax._paths import split_paths

pytestmark = pytest.mark.quick


class Layer(NamedTuple):
    w: Any


class Model(NamedTuple):
    """Its parameters' names are those of a state's fields, one inside another."""

    w: Any
    nu: Any


MODEL = Model(w=np.ones((64, 128)), nu=Layer(np.ones((64, 128))))
NESTED = {'w': np.ones(3), 'layers': [{'w': np.ones(3)}, {'b': np.ones(())}]}
MASKS = {
    'one leaf': Model(w=True, nu=Layer(False)),
    'a whole layer': Model(w=True, nu=False),
    'another leaf': Model(w=False, nu=Layer(True)),
}


def names(state, params):
    """Both parts of each path, as text."""
    keystr = jax.tree_util.keystr
    return [
        (keystr(prefix), None if path is None else keystr(path))
        for prefix, path in split_paths(state, params)
    ]


@pytest.mark.parametrize('params', [MODEL, NESTED, np.ones(3), {'a': None}, ()])
def test_moments_belong_to_their_parameters(params):
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    assert names(optax.scale_by_adam().init(params), params) == [
        # A parameter alone has the empty path, which every leaf's ends with.
        ('.count', '' if paths == [''] else None),
        *(('.mu', path) for path in paths),
        *(('.nu', path) for path in paths),
    ]


@pytest.mark.parametrize('mask', MASKS)
def test_moments_of_some_parameters_belong_to_those(mask):
    state = optax.masked(optax.scale_by_adam(), MASKS[mask]).init(MODEL).inner_state
    path = '.nu.w' if mask == 'another leaf' else '.w'
    assert names(state, MODEL) == [('.count', None), ('.mu', path), ('.nu', path)]


@pytest.mark.parametrize('mask', MASKS)
def test_parameters_that_are_left_out_have_no_leaves(mask):
    inner = optax.scale_by_adam()
    expected = names(optax.masked(inner, MASKS[mask]).init(MODEL).inner_state, MODEL)
    params = optax.masked(optax.trace(0.9), MASKS[mask]).init(MODEL).inner_state.trace
    assert names(inner.init(params), params) == expected


class Link(NamedTuple):
    """A list of layers, in which any layer's tree ends like the whole."""

    w: Any
    nu: Any


def test_moments_of_linked_layers_belong_to_their_layer():
    params = Link(np.ones(3), Link(np.ones(3), Link(np.ones(3), None)))
    state = optax.scale_by_adam().init(params)
    paths = ['.w', '.nu.w', '.nu.nu.w']
    expected = [(field, path) for field in ('.mu', '.nu') for path in paths]
    assert names(state, params) == [('.count', None), *expected]


class Counts(NamedTuple):
    """Its parameters are called like the count of a state too."""

    count: Any
    nu: Any


def test_moments_belong_to_their_parameters_beside_a_count_of_their_name():
    class Count(NamedTuple):
        count: Any

    params = Counts(np.ones(3), Count(np.ones(3)))
    state = optax.scale_by_adam().init(params)
    assert names(state, params)[1:] == [
        *[('.mu', '.count'), ('.mu', '.nu.count')],
        *[('.nu', '.count'), ('.nu', '.nu.count')],
    ]


def test_a_tree_that_differs_in_places_belongs_to_the_parameters_elsewhere():
    params = {'real': np.ones(3), 'complex': np.ones(3) + 1j}
    inner = optax.contrib.split_real_and_imaginary(optax.trace(0.9))
    assert names(inner.init(params).inner_state, params) == [
        (".trace['complex'].real", None),
        (".trace['complex'].imaginary", None),
        ('.trace', "['real']"),
    ]
