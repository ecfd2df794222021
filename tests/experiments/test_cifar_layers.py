"""experiments/cifar's layers against the operations that they stand for."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.cifar.layers import Pointwise


def pointwise(features_in, features, stride, dtype):
    """The layer as a function of its kernel and its input, and its kernel."""
    graphdef, params = nnx.split(
        Pointwise(
            features_in,
            features,
            stride,
            dtype=dtype,
            param_dtype=dtype,
            rngs=nnx.Rngs(0),
        )
    )

    def layer(kernel, x):
        return nnx.merge(graphdef, {'linear': {'kernel': kernel}})(x)

    return layer, params['linear']['kernel'][...]


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('shape', [(2, 5, 7, 3), (3, 4, 6, 5), (1, 1, 1, 2)])
def test_pointwise_is_a_1x1_convolution_and_so_are_its_gradients(shape, stride):
    layer, kernel = pointwise(shape[-1], 4, stride, jnp.float64)

    def convolution(kernel, x):
        return jax.lax.conv_general_dilated(
            x,
            kernel[None, None],
            (stride, stride),
            'VALID',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape))
    found, found_vjp = jax.vjp(layer, kernel, x)
    expected, expected_vjp = jax.vjp(convolution, kernel, x)
    cotangent = jnp.asarray(rng.standard_normal(expected.shape))
    for one, other in zip(
        (found, *found_vjp(cotangent)),
        (expected, *expected_vjp(cotangent)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_pointwise_and_its_gradients_are_products_of_matrices():
    # XLA's CPU backend transposes the whole batch for a product with more axes.
    layer, kernel = pointwise(3, 4, 2, jnp.float32)
    x = jnp.ones((2, 6, 6, 3), jnp.float32)

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(kernel, x):
        return jnp.sum(layer(kernel, x) ** 2)

    program = jax.jit(gradients).lower(kernel, x).as_text()
    products = re.findall(r'stablehlo\.dot_general.*: \((.*)\) ->', program)
    assert len(products) == 3
    for operands in products:
        assert re.fullmatch(r'tensor<\d+x\d+xf32>, tensor<\d+x\d+xf32>', operands)


def test_pointwise_slices_without_strides():
    # XLA's GPU backend in jax 0.11.2 aborts where it fuses one that has strides.
    layer, kernel = pointwise(3, 4, 2, jnp.float32)
    x = jnp.ones((2, 6, 6, 3), jnp.float32)
    program = jax.jit(layer).lower(kernel, x).as_text()
    (sliced,) = re.findall(r'stablehlo\.slice \S+ \[(.*)\]', program)
    assert not re.search(r':\d+:', sliced)
