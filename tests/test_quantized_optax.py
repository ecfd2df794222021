"""The names by which quantize_state knows what is never negative, for all of optax."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

from diffgrad_optax import quantize_state


def makers():
    """Every function of optax that makes something of a learning rate alone."""
    for module in (optax, optax.contrib):
        for name, maker in vars(module).items():
            if not inspect.isfunction(maker):
                continue
            parameters = inspect.signature(maker).parameters
            needed = [p.name for p in parameters.values() if p.default is p.empty]
            if 'learning_rate' in parameters and needed in ([], ['learning_rate']):
                yield name, maker


# L-BFGS takes other arguments than all others, and stores nothing in 8 bits.
MAKERS = {name: maker for name, maker in makers() if name != 'lbfgs'}
# What the page on memory says to give, and what it has no names for.
GIVEN = {'sm3': (), 'sophia': (), 'adafactor': ('v',)}
MISTAKEN = {
    'sm3': {'nu'},
    'sophia': {'nu'},
    'adafactor': {'v'},
    'cocob': {'scale', 'subgradients', 'reward'},
}


def problem():
    """Parameters and a loss that curves both ways."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        name: 0.1 * jax.random.normal(key, (64, 64))
        for name, key in zip('ab', keys, strict=False)
    }
    x = jax.random.normal(keys[2], (64, 64))

    def loss(params):
        hidden = jnp.tanh(x @ params['a'])
        return jnp.mean((jnp.tanh(hidden @ params['b']) - x) ** 2)

    return params, loss


def minima_of_state(opt):
    """The least number of each array of the state in 30 exact steps."""
    opt = optax.with_extra_args_support(opt)
    params, loss = problem()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = opt.update(
            grads, state, params, value=value, grad=grads, obj_fn=loss
        )
        arrays = [x for x in jax.tree.leaves(state) if x.shape == (64, 64)]
        params = optax.apply_updates(params, updates)
        return (params, state), [jnp.min(x) for x in arrays]

    _, minima = jax.jit(jax.lax.scan, static_argnums=(0, 3))(
        step, (params, opt.init(params)), None, 30
    )
    return [jnp.min(x) for x in minima]


def mistaken(name, **arguments):
    """The fields whose codes have a sign they need not, or have none and need one."""
    opt = MAKERS[name](learning_rate=1e-2)
    state = quantize_state(opt, **arguments).init(problem()[0]).inner_state
    codes = [
        ({getattr(key, 'name', None) for key in path}, x)
        for path, x in jax.tree_util.tree_leaves_with_path(state)
        if x.shape == (64, 64)
    ]
    fields = set()
    for (path, x), least in zip(codes, minima_of_state(opt), strict=True):
        if x.dtype == (jnp.int8 if least >= 0 else jnp.uint8):
            fields |= path - {None}
    return fields


@pytest.mark.filterwarnings('ignore')  # Some are deprecated.
@pytest.mark.usefixtures('float32')
@pytest.mark.parametrize(
    'name',
    [
        name
        if name in {'adam', 'yogi', *MISTAKEN}
        else pytest.param(name, marks=pytest.mark.slow)
        for name in MAKERS
    ],
)
def test_names_are_those_of_what_is_never_negative(name):
    assert mistaken(name) == MISTAKEN.get(name, set())


@pytest.mark.usefixtures('float32')
@pytest.mark.parametrize('name', GIVEN)
def test_the_memory_page_says_what_to_give_for_others(name):
    assert not mistaken(name, nonnegative=GIVEN[name])
    page = Path(__file__).parents[1] / 'docs' / 'tutorials' / 'memory.md'
    told = page.read_text(encoding='utf-8').replace('contrib.', '')
    assert re.search(rf'`optax\.{name}`[^.;]*`nonnegative=', told)


def test_optimizers_are_found():
    assert MAKERS.keys() >= {'adam', 'lion', 'rprop', 'yogi', 'dog', 'muon', 'prodigy'}
    assert len(MAKERS) >= 40
