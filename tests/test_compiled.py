"""What XLA makes of an update: it copies no array, and needs no other."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffgradw,
    diffrgrad,
    mars,
    quantize_state,
    scale_by_gains,
    with_friction,
)
from diffgrad_optax._quantize import dither

pytestmark = pytest.mark.usefixtures('float32')

SHAPE = (64, 128)
OPTIMIZERS = {
    'diffgrad': diffgrad(1e-3),
    'diffgrad, bf16': diffgrad(1e-3, prev_grad_dtype=jnp.bfloat16),
    'diffgrad, dfc3': diffgrad(1e-3, friction='dfc3'),
    'diffgrad, dfc4': diffgrad(1e-3, friction='dfc4'),
    'diffgrad, relative_dfc': diffgrad(1e-3, friction='relative_dfc'),
    'diffgradw': diffgradw(1e-3),
    'diffgrad, coupled decay': optax.chain(
        optax.add_decayed_weights(1e-4), diffgrad(1e-3)
    ),
    'diffrgrad': diffrgrad(1e-3),
    'with_friction(sgd)': with_friction(optax.sgd(1e-3, 0.9)),
    'adadiff': adadiff(1e-3),
    'mars': mars(1e-3),
    'scale_by_gains': optax.chain(scale_by_gains(), optax.sgd(1e-3, 0.9)),
}


def outer_product(param):
    """A gradient as a dense layer has it: not made element by element."""
    return lax.dot(param[:, :8], param[:8])


def square(param):
    """A gradient that XLA computes anew wherever it is read."""
    return param * param + 1e-3


def compiled_step(optimizer, gradient, dtype='float32'):
    """One step on two parameters, compiled, its arguments donated."""

    def step(params, state):
        grads = jax.tree.map(gradient, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jnp.ones(SHAPE, dtype)] * 2
    program = jax.jit(step, donate_argnums=(0, 1))
    return program.lower(params, optimizer.init(params)).compile()


def whole_copies(optimizer, gradient, dtype='float32'):
    """The copies of a parameter's size in a step."""
    text = compiled_step(optimizer, gradient, dtype).as_text()
    return re.findall(rf'\[{SHAPE[0]},{SHAPE[1]}\]\S* copy\(', text)


def temporary_bytes(optimizer, gradient):
    """What a step needs beside its arguments and its results."""
    return compiled_step(optimizer, gradient).memory_analysis().temp_size_in_bytes


def bare():
    """diffGrad with the bare gradient as the next state."""
    adam = optax.scale_by_adam()

    def init(params):
        return jax.tree.map(jnp.zeros_like, params), adam.init(params)

    def update(grads, state, params=None):
        prev_grads, adam_state = state
        updates, adam_state = adam.update(grads, adam_state, params)
        updates = jax.tree.map(
            lambda u, g, q: -1e-3 * jax.nn.sigmoid(jnp.abs(g - q)) * u,
            updates,
            grads,
            prev_grads,
        )
        return updates, (grads, adam_state)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_an_update_in_place_copies_no_array(name):
    assert not whole_copies(OPTIMIZERS[name], outer_product)


# AdaDiff's update takes moments that are not yet rounded, and XLA copies what those
# come from.
@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason='XLA:CPU before jax 0.10 copies in bfloat16'
)
@pytest.mark.parametrize('name', [name for name in OPTIMIZERS if name != 'adadiff'])
def test_nor_does_one_in_bfloat16(name):
    assert not whole_copies(OPTIMIZERS[name], outer_product, 'bfloat16')


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_gradient_that_is_never_in_memory_costs_a_copy_of_its_parameter(name):
    assert len(whole_copies(OPTIMIZERS[name], square)) <= 2


@pytest.mark.parametrize('name', ['diffgrad', 'diffgradw', 'diffgrad, coupled decay'])
def test_friction_takes_no_memory_of_its_own(name):
    adam = temporary_bytes(optax.adam(1e-3), outer_product)
    assert temporary_bytes(OPTIMIZERS[name], outer_product) < adam + 4096
    assert temporary_bytes(bare(), outer_product) > adam + 4 * math.prod(SHAPE)


@pytest.mark.parametrize('gradient', [outer_product, square])
def test_the_bare_gradient_as_state_would_be_copied(gradient):
    assert whole_copies(bare(), gradient)


def lowered_for_a_gpu(optimizer, parameters=1):
    """The operations of an update, before XLA for a GPU sees them."""
    params = [jnp.ones((32, 128))] * parameters
    state = optimizer.init(params)
    traced = jax.jit(optimizer.update).trace(params, state, params)
    return traced.lower(lowering_platforms=('cuda',)).as_text()


def last_two_waited_for(optimizer):
    """What the write of the previous gradient reads on a GPU, beside the gradient."""
    text = lowered_for_a_gpu(optimizer)
    ((total, itself),) = re.findall(r'compare +LT, (%\S+), (%\S+), +FLOAT', text)
    assert total == itself  # never true
    return re.search(rf'{total} = stablehlo.add (%\S+), (%\S+) :', text).groups()


def test_on_a_gpu_too_the_previous_gradient_waits():
    is_argument = [
        [name.startswith('%arg') for name in last_two_waited_for(OPTIMIZERS[name])]
        for name in ('diffgrad', 'mars')
    ]
    # XLA could still compute MARS's correction after the write, so that waits for what
    # it replaces as well.
    assert is_argument == [[False, False], [False, True]]


def waiting_codes(text):
    """The types of what waits in each barrier that codes pass."""
    barriers = re.findall(r'= stablehlo.optimization_barrier .* : (.*)', text)
    return sorted(types for types in barriers if types.startswith('tensor<32x128x'))


def test_8_bit_steps_are_written_twice_with_a_barrier_between():
    text = lowered_for_a_gpu(quantize_state(optax.sgd(1e-3, 0.9)))
    # The codes of the momentum and its scale.
    assert waiting_codes(text) == ['tensor<32x128xi8>, tensor<32x1xf32>']
    # Both halves decode: the first the argument, the second what the barrier gives.
    decoded = re.findall(r'call @decode\((%\w+)', text)
    assert [name[:4] == '%arg' for name in decoded] == [True, False]


def test_8_bit_arrays_do_not_wait_for_each_other():
    text = lowered_for_a_gpu(quantize_state(diffgrad(1e-3)))
    assert waiting_codes(text) == [
        *['tensor<32x128xi8>, tensor<32x1xf32>'] * 2,
        'tensor<32x128xui8>, tensor<32x1xf32>',
    ]


def test_8_bit_scales_are_the_largest_of_integers_in_rows():
    """XLA:CPU has no vectors for the largest of floats, nor for those of one row."""
    text = compiled_step(quantize_state(diffgrad(1e-3)), outer_product).as_text()
    shapes = dict(re.findall(r'%([\w.-]+) = (\w+\[[\d,]*\])', text))
    largest_of = re.findall(r' reduce\(%([\w.-]+),', text)
    assert [shapes[name] for name in largest_of] == ['s32[64,1,4,32]'] * 6


def test_8_bit_arrays_of_a_parameter_share_the_hash_of_its_places():
    text = lowered_for_a_gpu(quantize_state(diffgrad(1e-3)))
    assert len(re.findall(r'stablehlo.iota dim = ', text)) == 2  # one for each axis


def test_parameters_of_one_shape_do_not_share_it(monkeypatch):
    """XLA for a GPU would compute it once, and join the updates of all of them."""
    made = []
    monkeypatch.setattr(
        dither,
        'hash_places',
        lambda *args, of=dither.hash_places: made.append(of(*args)) or made[-1],
    )
    params = [jnp.ones((32, 128))] * 3
    optimizer = quantize_state(diffgrad(1e-3))
    optimizer.update(params, optimizer.init(params), params)
    first, *others = made
    assert [np.mean(other == first) for other in others] == [0, 0]


def test_parameters_of_one_shape_have_one_kernel_on_a_gpu():
    """XLA would make a parameter's seed a part of it, but for a barrier."""
    text = lowered_for_a_gpu(quantize_state(diffgrad(1e-3)), parameters=3)
    (seeds,) = re.findall(r'(%\w+):3 = call @hidden_constants', text)
    hidden = re.findall(r'stablehlo.optimization_barrier .* : tensor<ui32>', text)
    mixed = re.findall(r'broadcast_in_dim (%\w+)#\d, .*\(tensor<ui32>\)', text)
    assert len(hidden) == 3 and mixed == [seeds] * 3


def test_parameters_of_one_shape_have_one_kernel_on_a_cpu():
    """XLA would make a parameter's seed a part of it, were it not read from memory."""
    optimizer = quantize_state(diffgrad(1e-3), min_size=0)
    text = compiled_step(optimizer, outer_product).as_text()
    seed = dither._MIXERS[2]  # of the second parameter
    assert f'u32[2]{{0}} constant({{{~seed}, {seed}}})' in text
    assert f'u32[] constant({seed})' not in text
