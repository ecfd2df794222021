"""Coefficients as functions: ranges, symmetries, dtypes; and what they do to steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from problems import gradient_trajectory

from diffgrad_optax import (
    diffgrad,
    friction,
    friction_coefficients,
    scale_by_diffgrad,
    with_friction,
)

pytestmark = pytest.mark.quick

NAMES = ('dfc', 'dfc1', 'dfc2', 'dfc3', 'dfc4', 'dfc5', 'relative_dfc')
PER_ELEMENT = ('dfc', 'dfc1', 'dfc2')
WITH_MEAN = ('dfc3', 'dfc4', 'dfc5')
PER_ARRAY = (*WITH_MEAN, 'relative_dfc')
WITH_ABSOLUTE_VALUE = ('dfc', 'dfc2', *PER_ARRAY)

settings.register_profile(
    'deterministic', derandomize=True, deadline=None, database=None, max_examples=20
)
settings.load_profile('deterministic')


def arrays(dtype=np.float32, bound=100.0):
    """Arrays of one shape, so that nothing is compiled twice.

    Without subnormal numbers, which XLA flushes to zero.
    """
    return st_numpy.arrays(
        dtype,
        (4,),
        elements=st.floats(
            -bound, bound, width=np.dtype(dtype).itemsize * 8, allow_subnormal=False
        ),
    )


def ξ(name, grad, prev_grad):
    return getattr(friction, name)(jnp.asarray(grad), jnp.asarray(prev_grad))


@pytest.mark.parametrize('name', NAMES)
@given(grad=arrays(np.float64), prev_grad=arrays(np.float64))
def test_coefficient_equals_its_equation(name, grad, prev_grad):
    if name == 'relative_dfc':  # whose squares must be numbers
        assume(not np.any(grad) or references.root_mean_square(grad) > 1e-150)
    np.testing.assert_allclose(
        ξ(name, grad, prev_grad),
        references.coefficient(name, grad, prev_grad),
        # dfc4 has ν²|q - g| - μ up to 1e6 in the exponent: its rounding, 1e-10, is
        # the relative rounding of the result.
        rtol=1e-9,
        atol=1e-13,
    )


@pytest.mark.parametrize(
    'name, low, high',
    [
        ('dfc', 0.5, 1.0),
        ('dfc1', 0.0, 1.0),
        ('dfc2', 0.5, 5.0),
        ('relative_dfc', 0.5, 1.0),
    ],
)
@given(grad=arrays(), prev_grad=arrays())
def test_coefficient_stays_in_its_range(name, low, high, grad, prev_grad):
    coefficient = ξ(name, grad, prev_grad)
    assert np.all(coefficient >= low)
    assert np.all(coefficient <= high)


@pytest.mark.parametrize('name', WITH_MEAN)
@given(grad=arrays(), prev_grad=arrays())
def test_coefficient_with_the_mean_stays_in_its_range(name, grad, prev_grad):
    coefficient = ξ(name, grad, prev_grad)
    μ = np.mean(np.abs(grad.astype(np.float64)))
    # The bound is in float64: in float32 μ up to 100 is known to 1e-5.
    assert np.all(coefficient >= references.sigmoid(-μ) * (1.0 - 1e-4))
    assert np.all(coefficient <= 1.0)


@pytest.mark.parametrize('name', WITH_ABSOLUTE_VALUE)
@given(grad=arrays(), prev_grad=arrays())
def test_sign_of_both_gradients_does_not_matter(name, grad, prev_grad):
    np.testing.assert_array_equal(ξ(name, grad, prev_grad), ξ(name, -grad, -prev_grad))


@pytest.mark.parametrize('name', ['dfc', 'dfc2'])
@given(grad=arrays(), prev_grad=arrays())
def test_order_of_the_gradients_does_not_matter(name, grad, prev_grad):
    np.testing.assert_array_equal(ξ(name, grad, prev_grad), ξ(name, prev_grad, grad))


@given(grad=arrays(), prev_grad=arrays())
def test_dfc1_and_dfc1_of_the_other_order_sum_to_one(grad, prev_grad):
    total = ξ('dfc1', grad, prev_grad) + ξ('dfc1', prev_grad, grad)
    np.testing.assert_allclose(total, np.ones_like(total), rtol=1e-6)


@pytest.mark.parametrize('name', PER_ARRAY)
def test_coefficient_per_array_depends_on_the_order(name):
    grad, prev_grad = np.array([1.0, 3.0, 2.0, 1.5]), np.array([0.0, 0.5, 0.0, 3.5])
    assert np.all(ξ(name, grad, prev_grad) != ξ(name, prev_grad, grad))


def test_dfc1_brakes_growing_gradients_and_dfc_does_not():
    grad, prev_grad = np.full(4, 3.0), np.full(4, 1.0)
    assert np.all(ξ('dfc1', grad, prev_grad) < 0.5)
    assert np.all(ξ('dfc', grad, prev_grad) > 0.5)


@given(grad=arrays(bound=4.0), prev_grad=arrays(bound=4.0))
def test_dfc_and_dfc2_grow_with_the_difference(grad, prev_grad):
    for name in ('dfc', 'dfc2'):
        order = np.argsort(np.abs(grad - prev_grad))
        assert np.all(np.diff(np.asarray(ξ(name, grad, prev_grad))[order]) >= 0.0)


@pytest.mark.parametrize('name', [*PER_ELEMENT, 'relative_dfc'])
@given(grad=arrays())
def test_equal_gradients_give_exactly_one_half(name, grad):
    np.testing.assert_array_equal(ξ(name, grad, grad), np.full(4, 0.5, np.float32))


@pytest.mark.parametrize('name', WITH_MEAN)
def test_equal_gradients_give_less_than_one_half_with_the_mean(name):
    grad = np.array([1.0, -3.0, 0.0, 4.0])
    np.testing.assert_allclose(ξ(name, grad, grad), 1.0 / (1.0 + np.exp(2.0)))


@pytest.mark.parametrize('name', WITH_ABSOLUTE_VALUE)
@pytest.mark.parametrize('dtype', [np.complex64, np.complex128])
def test_complex_coefficient_is_that_of_the_modulus(name, dtype):
    rng = np.random.default_rng(0)
    grad, prev_grad = rng.normal(size=(2, 4)) + 1j * rng.normal(size=(2, 4))
    coefficient = ξ(name, grad.astype(dtype), prev_grad.astype(dtype))
    assert coefficient.dtype == np.zeros(0, dtype).real.dtype
    np.testing.assert_allclose(
        coefficient,
        references.coefficient(name, grad, prev_grad),
        rtol=8 * np.finfo(dtype).eps,
    )


def test_complex_coefficient_does_not_change_under_rotation():
    grad, prev_grad = np.array([3.0 + 4.0j, 1.0j]), np.array([0.0j, -1.0])
    np.testing.assert_allclose(
        ξ('dfc', grad, prev_grad),
        ξ('dfc', grad * np.exp(0.7j), prev_grad * np.exp(0.7j)),
        rtol=1e-14,
    )
    np.testing.assert_allclose(ξ('dfc', grad, prev_grad)[0], 1.0 / (1.0 + np.exp(-5.0)))


@pytest.mark.parametrize('dtype', [np.complex64, np.complex128])
def test_dfc1_refuses_complex_gradients(dtype):
    zero = np.zeros(4, dtype)
    with pytest.raises(TypeError, match=f'dfc1.*must be real.*{zero.dtype.name}'):
        ξ('dfc1', zero, zero)
    optimizer = with_friction(optax.identity(), 'dfc1')
    with pytest.raises(TypeError, match='dfc1'):
        optimizer.update(jnp.asarray(zero), optimizer.init(jnp.asarray(zero)))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', PER_ELEMENT)
def test_tiny_differences_of_16_bit_gradients_are_seen(name, dtype):
    grad, prev_grad = jnp.asarray(5e-4, dtype), jnp.asarray(0.0, dtype)
    half = jnp.asarray(0.5, dtype)
    # What the coefficient would be in the gradients' own dtype.
    assert jax.nn.sigmoid(grad) == half
    coefficient = ξ(name, grad, prev_grad)
    assert coefficient.dtype == jnp.float32
    assert coefficient != 0.5


@pytest.mark.parametrize(
    'dtypes, expected',
    [
        (('float8_e4m3fn', 'float8_e4m3fn'), 'float32'),
        (('bfloat16', 'bfloat16'), 'float32'),
        (('float16', 'bfloat16'), 'float32'),
        (('bfloat16', 'float32'), 'float32'),
        (('float32', 'float32'), 'float32'),
        (('float64', 'bfloat16'), 'float64'),
        (('float64', 'float64'), 'float64'),
    ],
)
@pytest.mark.parametrize('name', NAMES)
def test_coefficient_is_float32_or_wider(name, dtypes, expected):
    grad, prev_grad = (jnp.ones(4, dtype) for dtype in dtypes)
    assert ξ(name, grad, prev_grad).dtype == expected


@pytest.mark.parametrize(
    'dtype, most, first',
    [
        # In bfloat16 the sum of 4096 ones stops at 256.
        ('bfloat16', 1.0, 0.0),
        # In float16 the square of 300 is infinite.
        ('float16', 0.0, 300.0),
    ],
)
@pytest.mark.parametrize('name', PER_ARRAY)
def test_statistics_of_16_bit_gradients_are_taken_in_float32(name, dtype, most, first):
    grad = np.full(4096, most)
    grad[0] = first
    prev_grad = grad - 0.25
    np.testing.assert_allclose(
        ξ(name, jnp.asarray(grad, dtype), jnp.asarray(prev_grad, dtype)),
        references.coefficient(name, grad, prev_grad),
        # float32's sums of 4096 numbers, in an exponent of 10.
        rtol=1e-5,
    )


# What relative_dfc is for: the scale of the gradients does not matter.


def not_tiny(dtype=np.float32):
    """Arrays in which no square is lost, be they scaled by 2^-20."""
    return arrays(dtype).map(lambda array: np.where(abs(array) < 1e-6, 0, array))


@given(grad=not_tiny(), prev_grad=not_tiny(), power=st.integers(-20, 20))
def test_relative_coefficient_is_the_same_at_every_power_of_two(grad, prev_grad, power):
    scale = np.float32(2.0**power)
    np.testing.assert_array_equal(
        ξ('relative_dfc', scale * grad, scale * prev_grad),
        ξ('relative_dfc', grad, prev_grad),
    )


@pytest.mark.parametrize('scale', [1e-4, 1e4])
@given(grad=not_tiny(), prev_grad=not_tiny())
def test_relative_coefficient_is_the_same_at_every_scale(scale, grad, prev_grad):
    scale = np.float32(scale)
    np.testing.assert_allclose(
        ξ('relative_dfc', scale * grad, scale * prev_grad),
        ξ('relative_dfc', grad, prev_grad),
        rtol=1e-6,
    )


@functools.cache
def compiled(name, prev_grad_dtype):
    """diffgrad with eps = 0, because ε has the scale of the gradients, and its ξ."""
    optimizer = diffgrad(0.1, eps=0.0, friction=name, prev_grad_dtype=prev_grad_dtype)
    coefficients = jax.jit(
        lambda grads, state: friction_coefficients(grads, state, name)
    )
    return optimizer.init, jax.jit(optimizer.update), coefficients


def coefficients_of_a_run(scale, name, grads, prev_grad_dtype=None):
    """ξ and the updates of every step of diffgrad on `scale` times `grads`."""
    init, update, coefficients = compiled(name, prev_grad_dtype)
    state = init(jax.tree.map(jnp.zeros_like, grads[0]))
    ξs, all_updates = [], []
    for step_grads in grads:
        scaled = jax.tree.map(
            lambda g: jnp.asarray(g * g.dtype.type(scale)), step_grads
        )
        ξs.append(coefficients(scaled, state))
        updates, state = update(scaled, state)
        all_updates.append(updates)
    return ξs, all_updates


def nonzero_gradients(dtype):
    """The trajectory without zeros, which Adam divides by zero at eps = 0."""
    return [
        jax.tree.map(lambda g: np.where(g == 0.0, 0.5, g).astype(dtype), tree)
        for tree in gradient_trajectory()
    ]


@pytest.mark.parametrize('prev_grad_dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('scale', [2.0**-13, 2.0**13])
def test_a_run_at_another_power_of_two_has_the_same_relative_coefficients_and_steps(
    scale, dtype, prev_grad_dtype
):
    grads = nonzero_gradients(dtype)
    chex.assert_trees_all_equal(
        coefficients_of_a_run(scale, 'relative_dfc', grads, prev_grad_dtype),
        coefficients_of_a_run(1.0, 'relative_dfc', grads, prev_grad_dtype),
    )


@pytest.mark.parametrize('dtype, rtol', [('float32', 1e-6), ('float64', 1e-14)])
@pytest.mark.parametrize('scale', [1e-4, 1e4])
def test_a_run_at_another_scale_has_the_same_relative_coefficients(scale, dtype, rtol):
    grads = nonzero_gradients(dtype)
    ξs, _ = coefficients_of_a_run(scale, 'relative_dfc', grads)
    expected, _ = coefficients_of_a_run(1.0, 'relative_dfc', grads)
    chex.assert_trees_all_close(ξs, expected, rtol=rtol)


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'relative_dfc'])
@pytest.mark.parametrize('scale', [1e-4, 1e4])
def test_a_run_at_another_scale_has_other_coefficients_of_the_paper(scale, name):
    grads = nonzero_gradients('float64')
    ξs, _ = coefficients_of_a_run(scale, name, grads)
    expected, _ = coefficients_of_a_run(1.0, name, grads)
    for step, others in zip(ξs[1:], expected[1:], strict=True):
        difference = jax.tree.map(lambda ξ, η: float(np.max(abs(ξ - η))), step, others)
        assert max(jax.tree.leaves(difference)) > 0.01


@given(data=st.data(), power=st.integers(-10, 10))
def test_any_run_at_another_power_of_two_has_the_same_relative_coefficients(
    data, power
):
    grads = [data.draw(not_tiny()) for _ in range(4)]
    grads = [np.where(g == 0.0, np.float32(1.0), g) for g in grads]
    chex.assert_trees_all_equal(
        coefficients_of_a_run(2.0**power, 'relative_dfc', grads),
        coefficients_of_a_run(1.0, 'relative_dfc', grads),
    )


@pytest.mark.parametrize('size', [2e-18, 1.0, 2e18])
def test_relative_coefficient_is_scale_free_to_the_ends_of_its_documented_range(size):
    grad, prev_grad = np.array([3.0, -4.0, 1.0, 0.0]), np.array([3.0, 1.0, 0.5, -1.0])
    np.testing.assert_allclose(
        ξ('relative_dfc', np.float32(size * grad), np.float32(size * prev_grad)),
        references.coefficient('relative_dfc', grad, prev_grad),
        rtol=1e-6,
    )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_zero_gradients_have_one_half_where_they_were_zero_and_else_one(dtype):
    zero = jnp.zeros(3, dtype)
    before = jnp.asarray([0.0, 1e-3, -2.0], dtype)
    np.testing.assert_array_equal(ξ('relative_dfc', zero, zero), np.full(3, 0.5))
    np.testing.assert_array_equal(ξ('relative_dfc', zero, before), [0.5, 1.0, 1.0])


def test_relative_coefficient_of_a_change_as_large_as_the_rms_is_that_of_one():
    # rms = 5
    grad, prev_grad = np.array([7.0, 1.0]), np.array([2.0, 6.0])
    np.testing.assert_allclose(
        ξ('relative_dfc', grad, prev_grad), np.full(2, references.sigmoid(1.0))
    )


@pytest.mark.parametrize('c', [0.0, 0.3, 3.0])
def test_c_weighs_the_change(c):
    rng = np.random.default_rng(0)
    grad, prev_grad = rng.normal(size=(2, 6))
    weighted = functools.partial(friction.relative_dfc, c=c)
    expected = references.coefficient('relative_dfc', grad, prev_grad, c=c)
    np.testing.assert_allclose(weighted(grad, prev_grad), expected, rtol=1e-14)
    traced = jax.jit(friction.relative_dfc)(grad, prev_grad, c)
    np.testing.assert_allclose(traced, expected, rtol=1e-14)
    optimizer = diffgrad(0.1, friction=weighted)
    _, state = optimizer.update(prev_grad, optimizer.init(prev_grad))
    ξs = friction_coefficients(grad, state, weighted)
    np.testing.assert_allclose(ξs, expected, rtol=1e-14)
    adam = optax.adam(0.1)
    _, adam_state = adam.update(prev_grad, adam.init(prev_grad))
    adam_updates, _ = adam.update(grad, adam_state)
    updates, _ = optimizer.update(grad, state)
    np.testing.assert_allclose(updates, expected * adam_updates, rtol=1e-14)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_product_with_a_16_bit_update_is_rounded_once(dtype):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=64), dtype)
    optimizer = with_friction(optax.identity())
    updates, _ = optimizer.update(grads, optimizer.init(jnp.zeros_like(grads)))
    exact = references.coefficient(
        'dfc', np.asarray(grads, np.float64), np.zeros(64)
    ) * np.asarray(grads, np.float64)
    assert updates.dtype == dtype
    # Half a unit in the last place, and a little for the float32 product.
    np.testing.assert_allclose(
        np.asarray(updates, np.float64), exact, rtol=0.501 * jnp.finfo(dtype).eps
    )


@pytest.mark.parametrize('dtype', [np.float32, np.float16])
@given(data=st.data())
def test_friction_keeps_the_sign_and_never_lengthens_a_step(dtype, data):
    grads = [data.draw(arrays(dtype)) for _ in range(2)]
    inner = optax.trace(0.5)
    optimizer = with_friction(inner)
    inner_state, state = inner.init(grads[0]), optimizer.init(grads[0])
    for g in grads:
        inner_updates, inner_state = inner.update(g, inner_state)
        updates, state = optimizer.update(g, state)
        # Where half a step is still a number: half of the smallest is zero.
        large = np.abs(inner_updates) >= 2.0 * jnp.finfo(dtype).tiny
        assert np.all((np.sign(updates) == np.sign(inner_updates))[large])
        assert np.all(np.abs(updates) <= np.abs(inner_updates))
        assert np.all((np.abs(updates) >= np.abs(inner_updates) / 2.0)[large])


@pytest.mark.parametrize('name', NAMES)
def test_leaves_do_not_see_each_other(name):
    rng = np.random.default_rng(0)
    params = {'a': jnp.zeros(4), 'b': [jnp.zeros(4), jnp.zeros(())]}
    grads = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        for _ in range(3)
    ]
    optimizer = scale_by_diffgrad(friction=name)

    def last(trajectory):
        state = optimizer.init(params)
        for step_grads in trajectory:
            updates, state = optimizer.update(step_grads, state)
        return updates

    unchanged = last(grads)
    for i in range(3):
        leaves, treedef = jax.tree.flatten(grads[1])
        leaves[i] = leaves[i] + 7.0
        changed = last([grads[0], treedef.unflatten(leaves), grads[2]])
        for j, (u, v) in enumerate(
            zip(jax.tree.leaves(changed), jax.tree.leaves(unchanged), strict=True)
        ):
            assert bool(jnp.array_equal(u, v)) == (i != j)


@pytest.mark.parametrize('name', PER_ELEMENT)
def test_elements_do_not_see_each_other(name):
    grad, prev_grad = np.array([1.0, -2.0, 3.0, 0.0]), np.full(4, 0.5)
    together = ξ(name, grad, prev_grad)
    for i in range(4):
        alone = ξ(name, np.full(4, grad[i]), prev_grad)
        np.testing.assert_array_equal(np.full(4, together[i]), alone)


@pytest.mark.parametrize('name', PER_ARRAY)
def test_elements_of_an_array_share_its_statistics(name):
    grad, prev_grad = np.array([1.0, -2.0, 3.0, 0.0]), np.full(4, 0.5)
    louder = np.array([1.0, -2.0, 4.0, 0.0])
    assert np.all(ξ(name, grad, prev_grad)[:2] != ξ(name, louder, prev_grad)[:2])


@pytest.mark.parametrize('shape', [(0,), (3, 0)])
@pytest.mark.parametrize('name', NAMES)
def test_zero_sized_arrays_pass(name, shape):
    params = {'empty': jnp.zeros(shape), 'full': jnp.ones(4)}
    optimizer = with_friction(optax.trace(0.5), name)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_tree_all_finite((updates, state))


@pytest.mark.parametrize('name', NAMES)
def test_coefficient_of_huge_finite_gradients_is_finite(name):
    # The end of the documented range: squares are near float32's largest number.
    grad = np.array([9e18, -9e18, 3e18], np.float32)
    coefficient = ξ(name, grad, np.array([9e18, 9e18, 0.0], np.float32))
    assert np.all(np.isfinite(coefficient))


@pytest.mark.parametrize('size', [1000, 100_000])
@pytest.mark.parametrize('name', PER_ARRAY)
def test_coefficient_of_many_gradients_is_right_up_to_the_largest_norm(name, size):
    grad = np.full(size, 1.8e19 / size**0.5, np.float32)
    grad[::2] *= -1
    if name == 'relative_dfc':
        coefficient, expected = ξ(name, grad, np.zeros_like(grad)), 0.7310586
    else:
        coefficient, expected = ξ(name, grad, grad), 0.0
    np.testing.assert_allclose(coefficient, expected, rtol=1e-6)


@pytest.mark.parametrize('name', WITH_MEAN)
def test_coefficient_of_a_single_gradient_has_a_derivative(name):
    # It has no deviation, and ξ = σ(-|g|).
    slope = jax.grad(lambda g: ξ(name, g, 0.5)[0])(jnp.array([0.7]))
    expected = references.sigmoid(-0.7)
    np.testing.assert_allclose(slope, [-expected * (1 - expected)], rtol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_derivatives_by_gradients_that_stay_zero_are_finite(name):
    slopes = jax.grad(lambda g, q: jnp.sum(ξ(name, g, q)), (0, 1))
    chex.assert_tree_all_finite(slopes(jnp.zeros(3), jnp.zeros(3)))


@pytest.mark.parametrize('name', NAMES)
def test_a_search_for_nans_finds_none_in_an_array_without_elements(name):
    empty = jnp.zeros((0, 3))
    with jax.debug_nans(True):
        assert ξ(name, empty, empty).shape == (0, 3)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('prev_grad_dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_own_code_promotes_no_dtype_by_itself(dtype, prev_grad_dtype, name):
    params = {'w': jnp.ones(4, dtype), 'b': jnp.ones((), dtype)}
    with jax.numpy_dtype_promotion('strict'):
        for inner in (optax.identity(), optax.sgd(0.5)):
            optimizer = with_friction(inner, name, prev_grad_dtype=prev_grad_dtype)
            state = optimizer.init(params)
            updates, state = optimizer.update(params, state, params)
            ξs = friction_coefficients(params, state, name)
            chex.assert_trees_all_equal_dtypes(updates, params)
            chex.assert_tree_all_finite(ξs)


@pytest.mark.parametrize('dtype', ['float16', 'float8_e4m3fn', 'float64'])
@pytest.mark.parametrize('prev_grad_dtype', ['bfloat16', 'float16', 'float8_e5m2'])
def test_gradients_and_previous_ones_may_have_any_two_floating_dtypes(
    dtype, prev_grad_dtype
):
    params = jnp.ones(4, dtype)
    optimizer = with_friction(optax.identity(), prev_grad_dtype=prev_grad_dtype)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(params, state)
    assert updates.dtype == dtype
    assert state.prev_grad.dtype == prev_grad_dtype
    chex.assert_trees_all_equal(updates, jnp.full(4, 0.5, dtype))


def test_own_code_promotes_no_dtype_of_complex_gradients():
    params = jnp.ones(4, 'complex64')
    with jax.numpy_dtype_promotion('strict'):
        optimizer = with_friction(optax.identity())
        updates, _ = optimizer.update(params, optimizer.init(params))
    assert updates.dtype == jnp.complex64


def test_coefficient_may_be_any_callable():
    grads = jnp.array([1.0, -2.0, 4.0, 0.0])
    for coefficient in (
        lambda g, q: 0.25,
        lambda g, q: jnp.asarray(0.25),
        lambda g, q: jnp.full_like(g, 0.25),
        lambda g, q: np.full((1,), 0.25),
    ):
        optimizer = with_friction(optax.identity(), coefficient)
        updates, _ = optimizer.update(grads, optimizer.init(grads))
        chex.assert_trees_all_equal(updates, 0.25 * grads)


def test_a_coefficient_of_booleans_is_one_of_zeros_and_ones():
    def same_sign(grad, prev_grad):
        return grad * prev_grad > 0

    optimizer = with_friction(optax.identity(), same_sign)
    grads = jnp.array([1.0, -2.0, 4.0, 0.0])
    _, state = optimizer.update(jnp.array([1.0, 1.0, 1.0, 1.0]), optimizer.init(grads))
    coefficients = friction_coefficients(grads, state, same_sign)
    chex.assert_trees_all_equal(coefficients, jnp.array([1.0, 0.0, 1.0, 0.0]))
    assert coefficients.dtype == jnp.float32
    updates, _ = jax.jit(optimizer.update)(grads, state)
    chex.assert_trees_all_equal(updates, grads * coefficients)


@pytest.mark.parametrize('result', [None, 'dfc', np.ones(3)], ids=repr)
def test_a_coefficient_that_does_not_fit_is_refused(result):
    optimizer = with_friction(optax.identity(), lambda g, q: result)
    params = jnp.ones(4)
    with pytest.raises(TypeError, match=r'friction must return .* gradient \[4\]'):
        optimizer.update(params, optimizer.init(params))


def test_coefficient_gets_the_gradient_before_the_inner_transformation():
    calls = []

    def coefficient(grad, prev_grad):
        calls.append((grad, prev_grad))
        return jnp.ones_like(grad)

    optimizer = with_friction(optax.scale(100.0), coefficient)
    state = optimizer.init(jnp.zeros(4))
    first, second = jnp.arange(4.0), jnp.arange(4.0, 8.0)
    _, state = optimizer.update(first, state)
    _, state = optimizer.update(second, state)
    chex.assert_trees_all_equal(calls, [(first, jnp.zeros(4)), (second, first)])


@pytest.mark.parametrize('name', NAMES)
def test_name_and_function_are_the_same_coefficient(name):
    grads = jnp.array([1.0, -2.0, 4.0, 0.0])
    updates = []
    for given_as in (name, getattr(friction, name)):
        optimizer = with_friction(optax.identity(), given_as)
        updates.append(optimizer.update(grads, optimizer.init(grads))[0])
    chex.assert_trees_all_equal(*updates)


def test_every_coefficient_is_public():
    assert tuple(friction.COEFFICIENTS) == NAMES
    assert friction.__all__ == ('COEFFICIENTS', *NAMES)


@pytest.mark.parametrize(
    'use',
    [
        lambda name: diffgrad(0.1, friction=name),
        lambda name: scale_by_diffgrad(friction=name),
        lambda name: with_friction(optax.sgd(0.1), name),
        lambda name: friction_coefficients(
            jnp.zeros(2), with_friction(optax.sgd(0.1)).init(jnp.zeros(2)), name
        ),
    ],
    ids=['diffgrad', 'scale_by_diffgrad', 'with_friction', 'friction_coefficients'],
)
@pytest.mark.parametrize('wrong', ['dfc6', 'DFC', '', 'resolve'])
def test_unknown_name_is_refused_with_the_known_ones(use, wrong):
    with pytest.raises(ValueError) as refusal:
        use(wrong)
    for part in ('friction', repr(wrong), 'callable', *NAMES):
        assert part in str(refusal.value)


def test_gradients_may_be_numpy_arrays_of_more_bits_than_jax_keeps(float32):
    params = {'w': np.ones(4), 'b': np.float64(1.0)}
    optimizer = scale_by_diffgrad()
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype('float32')}
    ξs = friction_coefficients(params, state, 'dfc')
    assert {leaf.dtype for leaf in jax.tree.leaves(ξs)} == {np.dtype('float32')}


@pytest.mark.parametrize('name', NAMES)
def test_coefficients_of_python_numbers_are_those_of_arrays(name):
    coefficient = getattr(friction, name)
    np.testing.assert_array_equal(
        coefficient(1.0, -0.5), coefficient(jnp.asarray(1.0), jnp.asarray(-0.5))
    )


def test_a_transformation_whose_state_gets_leaves_at_its_first_update_goes_inside():
    monitor = optax.monitor(
        {'norm': lambda updates, *_, **__: optax.tree.norm(updates)}
    )
    alone = with_friction(optax.adam(0.1))
    watched = with_friction(optax.chain(monitor, optax.adam(0.1)))
    params = {'w': jnp.ones(4, jnp.bfloat16)}
    states = [optimizer.init(params) for optimizer in (alone, watched)]
    for scale in (1.0, -2.0, 0.5):
        # Wider than the state, whose dtypes are kept all the same.
        grads = {'w': jnp.full(4, scale, jnp.float32)}
        (expected, states[0]), (updates, states[1]) = (
            jax.jit(optimizer.update)(grads, state, params)
            for optimizer, state in zip((alone, watched), states, strict=True)
        )
        chex.assert_trees_all_equal(updates, expected)
    measured, adam_state = states[1].inner_state
    assert measured.measurements == {'norm': 1.0}
    chex.assert_trees_all_equal_dtypes(adam_state, optax.adam(0.1).init(params))
