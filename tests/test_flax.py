"""What Flax expects of any transformation, asked of every one of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import cases
from test_contract import assert_close, made, normal

from diffgrad_optax import diffgrad, friction_coefficients, quantize_state

nnx = pytest.importorskip('flax.nnx', reason='Flax is missing')
linen = pytest.importorskip('flax.linen')
TrainState = pytest.importorskip('flax.training.train_state').TrainState

INPUTS = np.random.default_rng(5).normal(size=(4, 2)).astype('float32')
TARGETS = np.random.default_rng(6).normal(size=(4, 3)).astype('float32')
LINEAR = {'kernel': (2, 3), 'bias': (3,)}


def squared_error(outputs):
    return jnp.mean((outputs - TARGETS) ** 2)


def nnx_model(params):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    nnx.update(model, params)
    return model


@pytest.mark.parametrize('name', cases())
def test_nnx_linen_and_plain_dicts_reach_the_same_parameters(name):
    opt, params = made(name), normal(0, shapes=LINEAR)

    model = nnx_model(params)
    optimizer = nnx.Optimizer(model, opt, wrt=nnx.Param)

    module = linen.Dense(3)
    train_state = TrainState.create(apply_fn=module.apply, params=params, tx=opt)

    state = opt.init(params)
    start = params
    for _ in range(3):
        grads = nnx.grad(lambda model: squared_error(model(INPUTS)))(model)
        optimizer.update(model, grads)

        grads = jax.grad(lambda p: squared_error(module.apply({'params': p}, INPUTS)))(
            train_state.params
        )
        train_state = train_state.apply_gradients(grads=grads)

        grads = jax.grad(
            lambda p: squared_error(INPUTS @ p['kernel'] + p['bias'][None])
        )(params)
        updates, state = opt.update(grads, state, params)
        params = optax.apply_updates(params, updates)

    expected = jax.tree.leaves((params, state))
    of_nnx = nnx.as_pure((nnx.state(model), optimizer.opt_state))
    assert_close(jax.tree.leaves(of_nnx), expected)
    assert_close(jax.tree.leaves((train_state.params, train_state.opt_state)), expected)
    for p, q in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True):
        assert jnp.all(p != q)


@pytest.mark.parametrize('view', [lambda tree: tree, nnx.as_pure], ids=['own', 'pure'])
@pytest.mark.parametrize(
    'opt',
    # A number that is a block of its own loses nothing.
    [diffgrad(0.1), quantize_state(diffgrad(0.1), block_size=1, min_size=4)],
    ids=['float32', 'kernel in 8 bits'],
)
def test_friction_coefficients_read_the_state_of_an_nnx_optimizer(opt, view):
    model = nnx_model(normal(0, shapes=LINEAR))
    optimizer = nnx.Optimizer(model, opt, wrt=nnx.Param)
    gradient = nnx.grad(lambda model: squared_error(model(INPUTS)))
    first = gradient(model)
    optimizer.update(model, first)
    second = gradient(model)
    coefficients = friction_coefficients(view(second), view(optimizer.opt_state), 'dfc')
    expected = jax.tree.map(lambda g, q: 1 / (1 + jnp.exp(-abs(g - q))), second, first)
    assert jax.tree.structure(coefficients) == jax.tree.structure(view(second))
    assert_close(coefficients, view(expected))
