"""What optax and JAX expect of any transformation, asked of every one of ours."""

import functools
import inspect
import types

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import REGISTRY, cases

import diffgrad_optax
from diffgrad_optax import (
    adadiff,
    correct_by_difference,
    dequantize_state,
    diffgrad,
    diffgradw,
    friction_coefficients,
    gradient_dropout,
    mars,
    scale_by_adadiff,
    scale_by_gains,
    with_friction,
)

FLOATS = ('float16', 'bfloat16', 'float32', 'float64')
MIXED = (('bfloat16', 'float32'), ('float32', 'bfloat16'), ('float16', 'bfloat16'))
SHAPES = {'w': (2, 3), 'b': (3,)}


@pytest.fixture(params=cases())
def entry(request):
    return REGISTRY[request.param]


@functools.cache
def made(name):
    return REGISTRY[name].make(**REGISTRY[name].kwargs)


@pytest.fixture(params=cases())
def opt(request):
    # One object for all tests, so that they share its compilations.
    return made(request.param)


def normal(seed, dtype='float32', shapes=SHAPES):
    """A tree of normal numbers, others for another seed."""
    key = np.random.default_rng(seed)
    return {
        name: jnp.asarray(key.normal(size=shape), dtype)
        for name, shape in shapes.items()
    }


def gradients(dtype='float32', shapes=SHAPES):
    return [normal(seed, dtype, shapes) for seed in (1, 2, 3)]


def run(opt, params, grads, state=None):
    """The updates of every step, and the state after the last, step by step."""
    state = opt.init(params) if state is None else state
    all_updates = []
    for g in grads:
        updates, state = opt.update(g, state, params)
        params = optax.apply_updates(params, updates)
        all_updates.append(updates)
    return all_updates, state


def floats_of(entry):
    return {k: v for k, v in entry.kwargs.items() if isinstance(v, float)}


def numbers_of(entry):
    """Every argument that is a number, be it a default."""
    bound = inspect.signature(entry.make).bind(**entry.kwargs)
    bound.apply_defaults()
    return {k: v for k, v in bound.arguments.items() if type(v) in (int, float)}


def avals(tree):
    return jax.tree.map(
        lambda x: (x.shape, str(x.dtype), getattr(x, 'weak_type', False)), tree
    )


def stack(*trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def compiled(opt):
    return optax.GradientTransformationExtraArgs(opt.init, jax.jit(opt.update))


def without_keys(tree):
    """`tree` with the numbers of its random keys, which NumPy can compare."""

    def numbers(leaf):
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(numbers, tree)


def assert_close(actual, desired):
    """Equal but for a few roundings of the narrowest dtype, at each array's scale.

    The compiler contracts, reorders and replaces floating-point operations, and
    leaves roundings to a narrow dtype out: compiled and eager, batched and single,
    scanned and stepwise results differ in the last bits.
    """
    chex.assert_trees_all_equal_structs(actual, desired)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, desired)
    actual, desired = map(without_keys, (actual, desired))
    dtypes = {x.dtype for x in jax.tree.leaves(desired)}
    eps = max(
        float(jnp.finfo(dtype).eps)
        for dtype in dtypes
        if jnp.issubdtype(dtype, jnp.inexact)
    )

    def check(path, a, d):
        a, d = np.asarray(a, 'complex128'), np.asarray(d, 'complex128')
        atol = 4 * eps * np.abs(d).max(initial=0.0)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, d, rtol=0, atol=atol, err_msg=where)

    jax.tree_util.tree_map_with_path(check, actual, desired)


def test_registry_holds_every_public_transformation():
    functions = {
        getattr(diffgrad_optax, name)
        for name in diffgrad_optax.__all__
        if isinstance(getattr(diffgrad_optax, name), types.FunctionType)
    }
    not_transformations = {dequantize_state, friction_coefficients}
    assert {
        entry.public or entry.make for entry in REGISTRY.values()
    } == functions - not_transformations


# The protocol of optax.


def test_unknown_extra_arguments_change_nothing(opt):
    params, (grads, *_) = normal(0), gradients()
    state = opt.init(params)
    chex.assert_trees_all_equal(
        opt.update(grads, state, params, nobody_expects_this=1.0),
        opt.update(grads, state, params),
    )


def test_map_params_reaches_every_array_shaped_like_a_parameter(opt):
    state = opt.init(normal(0))
    reached = optax.tree.map_params(
        opt, lambda _: True, state, transform_non_params=lambda _: False
    )
    assert reached == jax.tree.map(lambda x: x.ndim > 0, state)


def test_init_needs_only_shapes_and_dtypes(opt):
    params = normal(0, 'bfloat16')
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal(opt.init(structs), opt.init(params))
    assert avals(jax.eval_shape(opt.init, structs)) == avals(opt.init(params))


def test_parameters_in_the_memory_of_a_host_have_their_state_on_the_device(opt):
    device = jax.devices()[0]
    there = jax.sharding.SingleDeviceSharding(device, memory_kind='pinned_host')
    params = jax.device_put(normal(0), there)
    state = without_keys(jax.jit(opt.init)(params))
    chex.assert_trees_all_equal(state, without_keys(opt.init(normal(0))))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state)}
    assert kinds <= {device.default_memory().kind}


def test_masked_leaves_pass_and_the_others_move_as_alone(opt):
    params, grads = normal(0), gradients()
    kept = {'w': True, 'b': False}
    masked, _ = run(optax.masked(opt, kept), params, grads)
    alone, _ = run(opt, {'w': params['w']}, [{'w': g['w']} for g in grads])
    expected = [{**u, 'b': g['b']} for u, g in zip(alone, grads, strict=True)]
    chex.assert_trees_all_equal(masked, expected)


def test_partitions_move_as_alone(opt):
    params, grads = normal(0), gradients()
    labels = {'w': 'ours', 'b': 'theirs'}
    partition = optax.partition({'ours': opt, 'theirs': optax.sgd(1.0)}, labels)
    parted, _ = run(partition, params, grads)
    alone, _ = run(opt, {'w': params['w']}, [{'w': g['w']} for g in grads])
    expected = [{**u, 'b': -g['b']} for u, g in zip(alone, grads, strict=True)]
    chex.assert_trees_all_equal(parted, expected)


def test_chain_feeds_it_what_comes_out_before(opt):
    params, grads = normal(0), gradients()
    chained, _ = run(optax.chain(optax.scale(-3.0), opt), params, grads)
    scaled, _ = run(opt, params, [jax.tree.map(lambda x: -3.0 * x, g) for g in grads])
    chex.assert_trees_all_equal(chained, scaled)


def test_multi_steps_is_one_step_with_the_mean_gradient(opt):
    params, grads = normal(0), [*gradients(), normal(4)]
    accumulated, state = run(compiled(optax.MultiSteps(opt, 2)), params, grads)
    means = [
        jax.tree.map(lambda a, b: (a + b) / 2, *grads[0:2]),
        jax.tree.map(lambda a, b: (a + b) / 2, *grads[2:4]),
    ]
    for silent in accumulated[0::2]:
        chex.assert_trees_all_equal(silent, jax.tree.map(jnp.zeros_like, params))
    assert_close((accumulated[1::2], state.inner_opt_state), run(opt, params, means))


def test_lookahead_synchronises_half_way_to_where_it_goes_alone(opt):
    start, grads = normal(0), gradients()[:2]
    lookahead = optax.lookahead(opt, sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(start)
    state = lookahead.init(params)
    for g in grads:
        updates, state = lookahead.update(g, state, params)
        params = optax.apply_updates(params, updates)
    alone, alone_state = run(opt, start, grads)
    half_way = jax.tree.map(lambda p, u, v: p + (u + v) / 2, start, *alone)
    assert_close((params.slow, state.fast_state), (half_way, alone_state))
    assert_close(params.fast, params.slow)


def test_injected_hyperparameters_move_as_plain_ones(entry):
    # In float64 an array holds the same number as Python's float.
    params, grads = normal(0, 'float64'), gradients('float64')
    injected = optax.inject_hyperparams(entry.make)(**entry.kwargs)
    updates, state = run(injected, params, grads)
    expected = run(entry.make(**entry.kwargs), params, grads)
    assert_close((updates, state.inner_state), expected)


def test_every_number_is_an_injected_hyperparameter(entry):
    injected = optax.inject_hyperparams(entry.make)(**entry.kwargs)
    # float64 parameters, because hyperparameters get the parameters' dtype.
    assert injected.init(normal(0, 'float64')).hyperparams == numbers_of(entry)


@pytest.mark.parametrize('make', [diffgradw, adadiff, mars])
def test_a_schedule_for_the_decay_is_a_number_in_each_of_its_steps(make):
    params = {'w': jnp.linspace(1.0, 2.0, 6).reshape(2, 3)}
    decays = jnp.array([0.5, 0.0, 0.25])
    scheduled = make(0.1, weight_decay=lambda count: decays[count])
    plain = make(0.1, weight_decay=0.0)
    state, plain_state = scheduled.init(params), plain.init(params)
    for decay in decays:
        updates, state = jax.jit(scheduled.update)(params, state, params)
        undecayed, plain_state = plain.update(params, plain_state, params)
        expected = jax.tree.map(
            lambda u, p, λ=decay: u - 0.1 * λ * p, undecayed, params
        )
        chex.assert_trees_all_close(updates, expected, rtol=1e-12)


def test_float32_hyperparameters_serve_bfloat16_parameters(entry):
    grads = gradients('bfloat16')
    injected = optax.inject_hyperparams(entry.make, hyperparam_dtype=jnp.float32)
    updates, state = run(injected(**entry.kwargs), normal(0, 'bfloat16'), grads)
    # b2 = 0.999 would round to 1 in bfloat16, and 1 - b2**t be zero.
    for name, number in numbers_of(entry).items():
        if isinstance(number, float):
            assert state.hyperparams[name].dtype == jnp.float32
            assert state.hyperparams[name] == np.float32(number)
    expected, _ = run(
        entry.make(**entry.kwargs),
        optax.tree.cast(normal(0, 'bfloat16'), 'float32'),
        optax.tree.cast(grads, 'float32'),
    )
    # Three steps through moments that are stored with 8 bits.
    largest = max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(expected))
    chex.assert_trees_all_close(
        optax.tree.cast(updates, 'float32'), expected, atol=2**-5 * largest
    )


# Types and shapes.


@pytest.mark.parametrize(
    ('param_dtype', 'grad_dtype'), [*zip(FLOATS, FLOATS, strict=True), *MIXED]
)
def test_updates_have_the_gradients_dtype_and_state_keeps_its_types(
    opt, param_dtype, grad_dtype
):
    params, grads = normal(0, param_dtype), normal(1, grad_dtype)
    state = opt.init(params)
    assert not any(getattr(x, 'weak_type', False) for x in jax.tree.leaves(state))
    updates, new_state = jax.eval_shape(opt.update, grads, state, params)
    assert avals(updates) == avals(grads)
    assert avals(new_state) == avals(state)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize(
    'make',
    [
        scale_by_adadiff,
        functools.partial(scale_by_adadiff, amsgrad=True),
        scale_by_gains,
        correct_by_difference,
        functools.partial(gradient_dropout, 0.5, key=0),
    ],
    ids=['adadiff', 'amsgrad', 'gains', 'difference', 'dropout'],
)
def test_what_is_not_optaxs_promotes_no_dtype_by_itself(make, dtype):
    # With friction and schedules there are tests of their own; optax's Adam promotes.
    params = normal(0, dtype)
    with jax.numpy_dtype_promotion('strict'):
        opt = make()
        state = opt.init(params)
        for grads in gradients(dtype):
            _, state = opt.update(grads, state, params)


@pytest.mark.parametrize('dtype', FLOATS)
def test_a_skipped_step_has_the_types_of_a_taken_one(opt, dtype):
    params, grads = normal(0, dtype), normal(1, dtype)

    def step(taken, grads, state, params):
        return jax.lax.cond(
            taken, opt.update, lambda g, s, _: (g, s), grads, state, params
        )

    state = opt.init(params)
    jax.eval_shape(step, True, grads, state, params)


@pytest.mark.parametrize('dtype', FLOATS)
def test_a_traced_rate_leaves_updates_their_dtype(entry, dtype):
    numbers = {k: jnp.float32(v) for k, v in floats_of(entry).items()}
    opt = entry.make(**{**entry.kwargs, **numbers})
    params, grads = normal(0, dtype), normal(1, dtype)
    state = opt.init(params)
    updates, new_state = jax.eval_shape(opt.update, grads, state, params)
    assert avals(updates) == avals(grads)
    assert avals(new_state) == avals(state)


def test_scalars_empty_arrays_and_missing_leaves_keep_their_place(opt):
    def tree(x):
        return {
            # First, because masks depend on the position among the leaves.
            'a scalar': jnp.float32(x),
            'empty': jnp.zeros((0, 3)),
            'none': None,
            'deep': (),
        }

    all_updates, _ = run(opt, tree(1.0), [tree(2.0), tree(-1.0)])
    alone, _ = run(opt, jnp.float32(1.0), [jnp.float32(2.0), jnp.float32(-1.0)])
    for updates, update in zip(all_updates, alone, strict=True):
        chex.assert_trees_all_equal(updates, {**tree(0.0), 'a scalar': update})


@pytest.mark.parametrize('nothing', [{}, (), []], ids=repr)
def test_a_tree_without_leaves_is_no_error(opt, nothing):
    updates, state = run(opt, nothing, [nothing, nothing])
    assert updates == [nothing, nothing]
    chex.assert_trees_all_equal_structs(state, opt.init(nothing))


# Complex parameters.


def test_complex_gradients_without_imaginary_part_move_as_real_ones(entry):
    params, grads = normal(0), gradients()
    opt = entry.make(**entry.kwargs)
    if entry.refuses_complex:
        with pytest.raises(TypeError, match='complex'):
            run(opt, optax.tree.cast(params, 'complex64'), gradients('complex64'))
        return
    real, _ = run(opt, params, grads)
    complex_, _ = run(opt, optax.tree.cast(params, 'complex64'), gradients('complex64'))
    for updates, expected in zip(complex_, real, strict=True):
        chex.assert_trees_all_equal_dtypes(
            updates, optax.tree.cast(params, 'complex64')
        )
        if entry.rounds:
            largest = max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(expected))
            chex.assert_trees_all_close(
                optax.tree.real(updates), expected, atol=2**-5 * largest
            )
        else:
            assert_close(optax.tree.real(updates), expected)
        chex.assert_trees_all_equal(
            jax.tree.map(jnp.imag, updates), jax.tree.map(jnp.zeros_like, params)
        )


@pytest.mark.parametrize('dtype', ['complex64', 'complex128'])
def test_complex_friction_is_the_sigmoid_of_the_modulus_of_the_difference(dtype):
    rng = np.random.default_rng(0)
    grads = (rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))).astype(dtype)
    updates, _ = run(diffgrad(0.1), jnp.zeros(3, dtype), jnp.asarray(grads))

    m, v, previous = np.zeros(3, dtype), np.zeros(3), np.zeros(3, dtype)
    for t, (g, update) in enumerate(zip(grads, updates, strict=True), start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * (g.real**2 + g.imag**2)
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        change = previous - g
        ξ = 1 / (1 + np.exp(-np.sqrt(change.real**2 + change.imag**2)))
        assert update.dtype == dtype
        # float32's 1 - 0.999 has 1e-5 of relative error, of which the bias
        # correction gives back all but a little.
        rtol = 1e-5 if dtype == 'complex64' else 1e-12
        np.testing.assert_allclose(update, -0.1 * ξ * step, rtol=rtol)
        previous = g


# Transformations and compilation by JAX.


def test_compiled_steps_are_the_eager_ones_and_compile_once(opt):
    params, grads = normal(0), gradients()
    traces = 0

    @jax.jit
    def update(*args):
        nonlocal traces
        traces += 1
        return opt.update(*args)

    counted = optax.GradientTransformationExtraArgs(opt.init, update)
    eager = run(opt, params, grads)
    assert_close(run(counted, params, grads), eager)
    _, eager_state = eager
    run(counted, params, grads, state=eager_state)
    run(counted, params, grads, state=jax.jit(opt.init)(params))
    assert traces == 1


def test_scan_carries_the_state(opt):
    params, grads = normal(0), gradients()

    def step(carry, g):
        params, state = carry
        updates, state = opt.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    (_, state), updates = jax.lax.scan(step, (params, opt.init(params)), stack(*grads))
    expected, expected_state = run(opt, params, grads)
    assert_close((updates, state), (stack(*expected), expected_state))


@pytest.mark.parametrize(
    'entry',
    cases(name for name in REGISTRY if floats_of(REGISTRY[name])),
    indirect=True,
)
def test_vmap_over_hyperparameters_is_a_loop_over_them(entry):
    params, (*grads, last) = normal(0), gradients()
    _, state = run(entry.make(**entry.kwargs), params, grads)

    def step(hyperparameters):
        opt = entry.make(**{**entry.kwargs, **hyperparameters})
        return opt.update(last, state, params)

    # Arrays in the loop too, to see no difference but vmap's.
    grid = [
        {k: jnp.float32(v * factor) for k, v in floats_of(entry).items()}
        for factor in (1.0, 0.5)
    ]
    updates, new_state = jax.jit(jax.vmap(step))(stack(*grid))
    assert_close((updates, new_state), stack(*map(step, grid)))
    # Not all elements: a mask may keep or drop one in both.
    assert all(jnp.any(u[0] != u[1]) for u in jax.tree.leaves(updates))


def test_vmap_over_models_is_a_loop_over_them(opt):
    models = []
    for seed in (0, 10):
        params, *grads, last = (normal(seed + i) for i in range(4))
        _, state = run(opt, params, grads)
        models.append((last, state, params))
    batched = jax.jit(jax.vmap(opt.update))(*stack(*models))
    assert_close(batched, stack(*(opt.update(*model) for model in models)))


def test_one_program_lowers_for_cpu_cuda_and_tpu(opt):
    shapes = {'float32': (2, 3), 'bfloat16': (3,)}
    params = {dtype: jnp.ones(shape, dtype) for dtype, shape in shapes.items()}

    @jax.jit
    def two_steps(params, grads):
        return run(opt, params, [grads, grads])

    platforms = ('cpu', 'cuda', 'tpu')
    exported = jax.export.export(two_steps, platforms=platforms)(params, params)
    assert exported.platforms == platforms


# Buffers.


def buffers(*trees):
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(trees) if x.size]


def test_no_two_arrays_of_the_state_or_outside_it_share_a_buffer(opt):
    params, grads = normal(0), gradients()
    state = opt.init(params)
    alive = [params, state]
    for update in (opt.update, opt.update, jax.jit(opt.update)):
        g = grads.pop()
        updates, state = update(g, state, params)
        alive += [g, updates, state]
        assert len(set(buffers(*alive))) == len(buffers(*alive))


def test_donated_state_is_used_and_takes_no_other_array_with_it(opt):
    params, grads = normal(0), gradients()
    donating = jax.jit(opt.update, donate_argnums=1)
    state = opt.init(params)
    for update in (opt.update, donating, donating):
        others = [params, grads]
        # Copies, since a view would keep its buffer from being donated.
        before = jax.tree.map(lambda x: np.array(x, copy=True), others)
        old_state = state
        updates, state = update(grads[0], state, params)
        if update is donating:
            assert all(x.is_deleted() for x in jax.tree.leaves(old_state))
        chex.assert_trees_all_equal(others, before)
        kept = updates
    chex.assert_tree_all_finite(kept)


def test_the_initial_state_can_be_donated(opt):
    params, (grads, *_) = normal(0), gradients()
    state = opt.init(params)
    jax.jit(opt.update, donate_argnums=1)(grads, state, params)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_reusing_the_memory_of_a_gradient_does_not_change_the_state(opt):
    params = normal(0)
    grads = jax.tree.map(lambda x: np.array(x, copy=True), normal(1))
    _, state = jax.block_until_ready(opt.update(grads, opt.init(params), params))
    expected = jax.tree.map(lambda x: np.array(x, copy=True), without_keys(state))
    for g in jax.tree.leaves(grads):
        g[...] = 7.0
    chex.assert_trees_all_equal(without_keys(state), expected)


def test_a_random_key_in_the_inner_state_moves_on():
    params, (grads, *_) = normal(0), gradients()
    opt = with_friction(optax.add_noise(eta=0.1, gamma=0.55, key=jax.random.key(0)))
    state = opt.init(params)
    _, new_state = opt.update(grads, state, params)
    assert new_state.inner_state.rng_key.dtype == state.inner_state.rng_key.dtype
    assert new_state.inner_state.rng_key != state.inner_state.rng_key
