"""Refusals: a wrong argument or tree is named, with its value and what is allowed."""

import inspect
import math
from collections import OrderedDict, namedtuple
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffgrad_optax import (
    FrictionState,
    adadiff,
    correct_by_difference,
    diffgrad,
    diffgradw,
    diffrgrad,
    friction_coefficients,
    gradient_dropout,
    learning_rate_dropout,
    mars,
    quantize_state,
    scale_by_adadiff,
    scale_by_diffgrad,
    scale_by_gains,
    swats,
    with_friction,
)

pytestmark = pytest.mark.quick

NAN, INF = float('nan'), float('inf')

BELOW_ONE = ('[0, 1)', [1.0, 1, 2.5, -0.1, -1e-300, NAN, INF, -INF, np.float32(1.0)])
NOT_NEGATIVE = ('finite and >= 0', [-1e-8, -1, NAN, INF, -INF, np.float64(-2.0)])
UP_TO_ONE = ('[0, 1]', [1.0 + 1e-15, 2, -0.1, NAN, INF, -INF, np.float32(1.5)])

ALLOWED = {
    'learning_rate': NOT_NEGATIVE,
    'b1': BELOW_ONE,
    'b2': BELOW_ONE,
    'eps': NOT_NEGATIVE,
    'eps_root': NOT_NEGATIVE,
    'weight_decay': NOT_NEGATIVE,
    'threshold': ('finite and >= 4', [3.9, 0, NAN, INF, np.float32(1.0)]),
    'switch_tolerance': NOT_NEGATIVE,
    'gamma': NOT_NEGATIVE,
    'max_norm': ('>= 0', [-1e-8, -1, NAN, -INF, np.float64(-2.0)]),
    'beta': BELOW_ONE,
    'min_gain': UP_TO_ONE,
    'max_gain': ('finite and >= 1', [0.999, 0, -1.0, NAN, INF, np.float32(0.5)]),
    'keep_prob': UP_TO_ONE,
}

MAKERS = (
    scale_by_diffgrad,
    diffgrad,
    diffgradw,
    diffrgrad,
    scale_by_adadiff,
    adadiff,
    swats,
    scale_by_gains,
    correct_by_difference,
    mars,
    gradient_dropout,
    learning_rate_dropout,
)

# What has no default.
REQUIRED = {'learning_rate': 0.1, 'keep_prob': 0.5, 'key': 0, 'inner': optax.identity()}


def takes(maker, name):
    return name in inspect.signature(maker).parameters


def makers_taking(name):
    return [maker for maker in MAKERS if takes(maker, name)]


def make_with(maker, **arguments):
    required = {name: v for name, v in REQUIRED.items() if takes(maker, name)}
    return maker(**required | arguments)


def quantized(**arguments):
    return quantize_state(optax.trace(0.9), min_size=0, **arguments)


NO_NUMBERS = [True, False, '0.1', None, 0.1j, [0.1], np.bool_(True)]


def cases(values_of):
    """Every value that an argument refuses, for every function that takes it."""
    return [
        pytest.param(
            maker, name, value, allowed, id=f'{maker.__name__}-{name}={value!r}'
        )
        for maker in MAKERS
        for name, (allowed, numbers) in ALLOWED.items()
        if takes(maker, name)
        for value in values_of(numbers)
        if not (name == 'weight_decay' and value is None)
    ]


def assert_names(refusal, *parts):
    for part in parts:
        assert part in str(refusal.value)


def assert_short(refusal):
    assert len(str(refusal.value)) < 300
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('maker, name, value, allowed', cases(lambda numbers: numbers))
def test_number_out_of_range_is_refused(maker, name, value, allowed):
    with pytest.raises(ValueError) as refusal:
        make_with(maker, **{name: value})
    assert_names(refusal, f'{name} must be', allowed, repr(value))


@pytest.mark.parametrize(
    'maker, name, value, allowed', cases(lambda numbers: NO_NUMBERS)
)
def test_what_is_no_number_is_refused(maker, name, value, allowed):
    with pytest.raises(TypeError) as refusal:
        make_with(maker, **{name: value})
    assert_names(refusal, f'{name} must be a number', allowed, repr(value))


NUMBERS = [
    pytest.param(maker, name, id=f'{maker.__name__}-{name}')
    for maker in MAKERS
    for name in ALLOWED
    if takes(maker, name)
]


def test_every_argument_that_is_a_number_is_tried():
    for maker in MAKERS:
        for name, parameter in inspect.signature(maker).parameters.items():
            if type(parameter.default) in (int, float):
                assert name in ALLOWED


@pytest.mark.parametrize('maker', [*MAKERS, with_friction, quantize_state])
def test_no_argument_may_be_just_any_object(maker):
    for name in inspect.signature(maker).parameters:
        with pytest.raises(TypeError, match=f'^{name} must be '):
            make_with(maker, **{name: object()})


@pytest.mark.parametrize('maker, name', NUMBERS)
def test_schedule_is_refused_for_anything_but_learning_rate_and_decay(maker, name):
    schedule = optax.constant_schedule(0.5)
    if name in ('learning_rate', 'weight_decay'):
        make_with(maker, **{name: schedule})
        return
    with pytest.raises(TypeError) as refusal:
        make_with(maker, **{name: schedule})
    assert_names(refusal, name, 'must be a number')


@pytest.mark.parametrize(
    'maker, name, value',
    [
        (diffgradw, 'b1', 0.0),
        (diffgradw, 'b1', 0),
        (diffgradw, 'b2', np.float32(0.5)),
        (diffgradw, 'b2', math.nextafter(1.0, 0.0)),
        (diffgradw, 'eps', 0.0),
        (diffgradw, 'eps_root', 1e300),
        (diffgradw, 'weight_decay', 0),
        (diffgradw, 'learning_rate', 0.0),
        (diffgradw, 'learning_rate', 100),
        (diffgradw, 'learning_rate', optax.constant_schedule(0.1)),
        (diffrgrad, 'threshold', 4),
        (swats, 'switch_tolerance', 0.0),
        (correct_by_difference, 'gamma', 0),
        (correct_by_difference, 'gamma', 10.0),
        (correct_by_difference, 'b1', 0.0),
        (correct_by_difference, 'max_norm', 0),
        (correct_by_difference, 'max_norm', INF),
        (scale_by_gains, 'beta', 0),
        (scale_by_gains, 'beta', math.nextafter(1.0, 0.0)),
        (scale_by_gains, 'min_gain', 0.0),
        (scale_by_gains, 'min_gain', 1),
        (scale_by_gains, 'max_gain', 1),
        (scale_by_gains, 'max_gain', np.float32(1e30)),
        (gradient_dropout, 'keep_prob', 0),
        (gradient_dropout, 'keep_prob', 1.0),
        (learning_rate_dropout, 'keep_prob', np.float32(1.0)),
    ],
)
def test_bounds_and_other_numbers_are_allowed(maker, name, value):
    optimizer = make_with(maker, **{name: value})
    params = jnp.ones(2)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jnp.all(jnp.isfinite(updates))


@pytest.mark.parametrize('maker, name', NUMBERS)
def test_traced_number_is_never_looked_at(maker, name):
    params = jnp.ones(2)

    @jax.jit
    def step(number):
        optimizer = make_with(maker, **{name: number})
        return optimizer.update(params, optimizer.init(params), params)[0]

    # Outside the range of every argument.
    assert step(-1.0).shape == (2,)
    # A concrete array passes unread too: reading it would wait for its device.
    for array in (jnp.asarray(-1.0), np.asarray(-1.0)):
        make_with(maker, **{name: array})


@pytest.mark.parametrize('value', [None, 0.5, 1, ('dfc',), ['dfc']], ids=repr)
@pytest.mark.parametrize('maker', makers_taking('friction'))
def test_friction_that_is_no_function_is_refused(maker, value):
    with pytest.raises(TypeError) as refusal:
        make_with(maker, friction=value)
    assert_names(refusal, 'friction must be a callable or one of dfc', repr(value))


@pytest.mark.parametrize(
    'result, shown',
    [
        (np.ones(4), 'float64[4]'),
        (jnp.ones((2, 3)), '[2, 3]'),
        (1j, '1j'),
        (np.ones(3, 'complex64'), 'complex64[3]'),
        (np.array(['a', 'b', 'c']), '[3]'),
        (jax.random.key(0), 'key<fry>[]'),
        (2**70, str(2**70)),
        (None, 'None'),
    ],
    ids=repr,
)
def test_friction_that_is_no_coefficient_for_the_gradient_is_refused(result, shown):
    optimizer = with_friction(optax.identity(), lambda grad, prev_grad: result)
    with pytest.raises(TypeError) as refusal:
        optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)))
    assert_names(refusal, 'friction must return real', '[3]', shown)


@pytest.mark.parametrize('maker', makers_taking('friction'))
def test_unknown_friction_is_refused(maker):
    with pytest.raises(ValueError) as refusal:
        make_with(maker, friction='relu')
    assert_names(refusal, 'friction must be a callable or one of dfc', "'relu'")


def wrapped(*, learning_rate=0.1, prev_grad_dtype=None):
    return with_friction(optax.sgd(learning_rate), prev_grad_dtype=prev_grad_dtype)


def stores(*names):
    """Every optimizer with each of the storage dtypes `names` that it takes."""
    return [
        pytest.param(maker, name, id=f'{maker.__name__}-{name}')
        for name in names
        for maker in (*MAKERS, wrapped)
        if takes(maker, name)
    ]


@pytest.mark.parametrize(
    'value, shown',
    [
        (jnp.int8, 'int8'),
        ('int32', 'int32'),
        (np.dtype('uint16'), 'uint16'),
        (bool, 'bool'),
        ('float4_e2m1fn', 'float4_e2m1fn'),  # fewer than 8 bits
        ('float8_e8m0fnu', 'float8_e8m0fnu'),  # neither zero nor sign
        (int, 'int'),
        ('nonsense', "'nonsense'"),
        (7, '7'),
        (0.5, '0.5'),
        (np.zeros(3), 'array([0., 0., 0.])'),
        (jnp.zeros(3), 'Array([0., 0., 0.]'),
        (jax.random.key(0).dtype, 'key<fry>'),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else None,
)
@pytest.mark.parametrize(
    'maker, name', stores('mu_dtype', 'nu_dtype', 'prev_grad_dtype')
)
def test_storage_that_is_no_floating_dtype_is_refused(maker, name, value, shown):
    with pytest.raises(TypeError) as refusal:
        make_with(maker, **{name: value})
    assert_names(refusal, f'{name} must be None or a ', f'got {shown}')


@pytest.mark.parametrize(
    'maker', [adadiff, scale_by_adadiff, diffgrad, diffrgrad, mars]
)
def test_complex_storage_of_what_is_real_is_refused(maker):
    with pytest.raises(
        TypeError, match=r'nu_dtype must be None or a real .* complex64'
    ):
        make_with(maker, nu_dtype='complex64')


@pytest.mark.parametrize(
    'value', ['bfloat16', jnp.bfloat16, np.dtype('float16'), float]
)
def test_floating_dtype_is_allowed_in_any_spelling(value):
    optimizer = scale_by_diffgrad(mu_dtype=value, prev_grad_dtype=value)
    state = optimizer.init(jnp.ones(2))
    assert state.prev_grad.dtype == state.inner_state.mu.dtype == jnp.dtype(value)


@pytest.mark.parametrize('name', ['mu_dtype', 'prev_grad_dtype'])
def test_scalar_type_under_inject_hyperparams_is_refused_with_the_remedy(name):
    injected = optax.inject_hyperparams(diffgrad)(0.1, **{name: jnp.bfloat16})
    with pytest.raises(TypeError) as refusal:
        injected.init(jnp.ones(2))
    assert_names(refusal, name, 'optax.inject_hyperparams', "'bfloat16'", 'callable')
    remedied = optax.inject_hyperparams(diffgrad)(0.1, **{name: 'bfloat16'})
    remedied.init(jnp.ones(2))


COMPLEX = {'real': np.ones(2), 'rotation': [np.ones(2, 'complex64')]}


@pytest.mark.parametrize('dtype', ['bfloat16', 'float64'])
@pytest.mark.parametrize('maker, name', stores('mu_dtype', 'prev_grad_dtype'))
def test_complex_parameter_is_refused_where_it_could_not_be_kept(maker, name, dtype):
    optimizer = make_with(maker, **{name: dtype})
    with pytest.raises(TypeError) as refusal:
        optimizer.init(COMPLEX)
    assert_names(refusal, f'{name}={dtype}', "['rotation'][0]", 'complex64', 'None')
    make_with(maker, **{name: 'complex64'}).init(COMPLEX)
    make_with(maker).init(COMPLEX)


def test_complex_python_number_is_refused_as_a_complex_array_is():
    with pytest.raises(TypeError, match=r"prev_grad_dtype=float32 cannot .*\['w'\]"):
        diffgrad(0.1, prev_grad_dtype='float32').init({'w': 1j})


@pytest.mark.parametrize('around', [with_friction, quantize_state])
def test_lookahead_is_refused_inside(around):
    params = optax.LookaheadParams.init_synced({'w': jnp.ones(2)})
    optimizer = around(optax.lookahead(optax.adam(0.1), 2, 0.5))
    with pytest.raises(TypeError, match=r'LookaheadParams: put .* around'):
        optimizer.init(params)


@pytest.mark.parametrize(
    'make', [diffgrad, diffrgrad, adadiff, mars, swats, lambda rate: scale_by_gains()]
)
def test_parameter_without_a_gradient_is_refused(make):
    params = {'w': jnp.ones(2), 'steps': [jnp.arange(2, dtype='int32')]}
    with pytest.raises(TypeError) as refusal:
        make(0.1).init(params)
    assert_names(refusal, "['steps'][0]", 'int32', 'floating or complex', 'masked')


@pytest.mark.parametrize(
    'value',
    [
        Fraction(1, 10),
        np.array('a'),
        jax.random.key(0),
        jnp.array(0.1 + 0j),
        jnp.array(True),
    ],
    ids=repr,
)
def test_what_is_of_no_real_dtype_is_no_number(value):
    with pytest.raises(TypeError, match='learning_rate must be a number'):
        diffgrad(value)


@pytest.mark.usefixtures('float32')
@pytest.mark.parametrize('name', ['b1', 'b2'])
def test_a_decay_rate_that_is_1_in_float32_is_refused(name):
    said = f'{name} must be a number in .0, 1., got 0.99999999, which is 1 in float32'
    with pytest.raises(ValueError, match=said):
        adadiff(1e-3, **{name: 1 - 1e-8})
    adadiff(1e-3, **{name: 1 - 2**-24})
    with jax.enable_x64(True):
        adadiff(1e-3, **{name: 1 - 1e-8})


def test_an_integer_that_no_float_holds_is_out_of_range():
    with pytest.raises(ValueError, match='learning_rate must be a number, finite'):
        diffgrad(10**400)


def test_complex_parameter_is_refused_where_its_gradient_needs_a_sign():
    with pytest.raises(TypeError) as refusal:
        scale_by_gains().init(COMPLEX)
    assert_names(
        refusal, 'scale_by_gains', "['rotation'][0]", 'must be real', 'complex64'
    )


PARAMS = {'dense': {'kernel': np.ones((2, 3)), 'bias': np.ones(3)}, 'gain': np.ones(())}

MISFITS = {
    'missing_leaf': (
        {'dense': {'kernel': np.ones((2, 3))}, 'gain': np.ones(())},
        ["gradients have nothing at ['dense']['bias']", 'has an array'],
    ),
    'none_for_a_leaf': (
        {**PARAMS, 'gain': None},
        ["gradients have NoneType at ['gain']", 'has an array'],
    ),
    'extra_leaf': (
        {**PARAMS, 'scale': np.ones(2)},
        ["at ['scale']", 'has nothing'],
    ),
    'other_shape': (
        {**PARAMS, 'dense': {'kernel': np.ones((3, 2)), 'bias': np.ones(3)}},
        ["['dense']['kernel']", '(3, 2)', '(2, 3)'],
    ),
    'shape_that_would_broadcast': (
        {**PARAMS, 'dense': {'kernel': np.ones((2, 3)), 'bias': np.ones(1)}},
        ["['dense']['bias']", '(1,)', '(3,)'],
    ),
    'scalar_for_an_array': (
        {**PARAMS, 'dense': {'kernel': np.ones((2, 3)), 'bias': 1.0}},
        ["['dense']['bias']", '()', '(3,)'],
    ),
    'other_container': (
        {**PARAMS, 'dense': [np.ones(3), np.ones((2, 3))]},
        ["gradients have list at ['dense']", 'has dict'],
    ),
}


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('misfit', MISFITS)
def test_gradients_that_do_not_fit_the_state_are_refused_by_leaf(misfit, jit):
    grads, parts = MISFITS[misfit]
    optimizer = with_friction(optax.identity())
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    with pytest.raises(ValueError) as refusal:
        update(grads, state)
    assert_names(refusal, *parts, 'call init with the parameters')


@pytest.mark.parametrize(
    'maker', [maker for maker in MAKERS if not takes(maker, 'keep_prob')]
)
def test_misfit_is_refused_by_every_optimizer_before_the_inner_one_sees_it(maker):
    # Dropout alone has no state shaped like the parameters.
    grads, parts = MISFITS['other_shape']
    optimizer = make_with(maker)
    with pytest.raises(ValueError) as refusal:
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert_names(refusal, *parts)


LAYERS = {f'layer_{i}': {'kernel': [np.ones(2)], 'bias': None} for i in range(100)}


@pytest.mark.parametrize(
    'grads, stored, parts',
    [
        (LAYERS, OrderedDict(LAYERS), ['dict at the root', 'has OrderedDict']),
        (
            LAYERS,
            LAYERS | {'layer_7': {'kernel': (np.ones(2),), 'bias': None}},
            ["list at ['layer_7']['kernel']", 'has tuple'],
        ),
        (
            LAYERS | {'layer_7': {'kernel': [np.ones(2)], 'bias': optax.MaskedNode()}},
            LAYERS,
            ["MaskedNode at ['layer_7']['bias']", 'has NoneType'],
        ),
        (LAYERS | {'a': ()}, LAYERS, ["tuple at ['a']", 'has nothing']),
        (LAYERS, LAYERS | {'a': ()}, ["nothing at ['a']", 'has tuple']),
        (
            OrderedDict(LAYERS),
            OrderedDict(reversed(LAYERS.items())),
            ['OrderedDict at the root', 'has another OrderedDict'],
        ),
    ],
    ids=['root', 'inside', 'no leaf', 'extra', 'missing', 'order'],
)
def test_containers_that_differ_under_the_same_paths_are_both_named(
    grads, stored, parts
):
    optimizer = with_friction(optax.identity())
    state = optimizer.init(stored)
    with pytest.raises(ValueError) as refusal:
        optimizer.update(grads, state)
    assert_names(refusal, *parts, 'call init with the parameters')
    assert_short(refusal)


def test_quantized_trees_that_do_not_fit_are_refused_in_one_line():
    # Some inner transformation that replaces a container deep in its state.
    def replaced(updates, state, params=None):
        return updates, state | {'layer_7': {'kernel': (np.ones(2),), 'bias': None}}

    inner = optax.GradientTransformation(lambda params: params, replaced)
    optimizer = quantize_state(inner)
    state = optimizer.init(LAYERS)
    with pytest.raises(ValueError) as refusal:
        optimizer.update(LAYERS, state)
    assert_names(refusal, "tuple instead of list at ['layer_7']['kernel']")
    assert_short(refusal)
    for scales, part in (
        (None, 'they have 1 leaves, and it has 200'),
        ({'a': np.ones(2)}, "it has no ['a']"),
    ):
        with pytest.raises(ValueError) as refusal:
            optimizer.update(LAYERS, state._replace(scales=scales))
        assert_names(refusal, 'do not fit the inner_state', part)
        assert_short(refusal)


STATES = [
    optimizer.init(PARAMS)
    for optimizer in (
        optax.scale_by_adam(),
        scale_by_diffgrad(),
        scale_by_adadiff(),
        swats(0.1),
        scale_by_gains(),
        correct_by_difference(),
        gradient_dropout(0.5, 0),
        quantize_state(optax.sgd(0.1)),
    )
] + [{'prev_grad': PARAMS, 'inner_state': (), 'key': 0}, PARAMS, None]


@pytest.mark.parametrize('maker', [*MAKERS, quantized])
def test_state_of_another_transformation_is_refused(maker):
    optimizer = make_with(maker)
    state = optimizer.init(PARAMS)
    first, rest = (state[0], state[1:]) if type(state) is tuple else (state, None)
    for other in STATES:
        if type(other) is type(first):
            continue
        with pytest.raises(TypeError) as refusal:
            optimizer.update(PARAMS, other if rest is None else (other, *rest), PARAMS)
        assert_names(
            refusal,
            f'state is a {type(other).__name__}, and must be a {type(first).__name__} ',
        )
        assert_short(refusal)


def test_state_of_friction_around_another_optimizer_is_refused():
    state = with_friction(optax.identity()).init(PARAMS)
    with pytest.raises(TypeError, match=r'is a EmptyState, .* be a ScaleByAdamState'):
        scale_by_diffgrad().update(PARAMS, state)


@pytest.mark.parametrize(
    'other_class', [namedtuple('Restored', FrictionState._fields), SimpleNamespace]
)
def test_state_in_another_class_with_the_same_fields_is_read(other_class):
    optimizer = scale_by_diffgrad()
    state = optimizer.init(PARAMS)
    other = other_class(**state._asdict())
    for expected, actual in zip(
        jax.tree.leaves(optimizer.update(PARAMS, state)),
        jax.tree.leaves(optimizer.update(PARAMS, other)),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


class Tensor:
    """A tensor of another library, which NumPy could read."""

    shape, dtype = (3,), np.dtype('float64')

    def __array__(self, dtype=None, copy=None):
        return np.ones(3)


Tensor.__module__, Tensor.__qualname__ = 'torch', 'Tensor'
NO_ARRAYS = {'torch.Tensor': Tensor(), 'str': '0.1', 'numpy.ndarray': np.array([None])}


@pytest.mark.parametrize('shown', NO_ARRAYS)
@pytest.mark.parametrize('maker', [*MAKERS, quantized])
def test_gradient_that_is_no_array_is_refused_by_leaf(maker, shown):
    optimizer = make_with(maker)
    grads = {**PARAMS, 'dense': {**PARAMS['dense'], 'bias': NO_ARRAYS[shown]}}
    with pytest.raises(TypeError) as refusal:
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    what = 'update' if takes(maker, 'keep_prob') else 'gradient'
    assert_names(
        refusal, f"{what} ['dense']['bias'] is a {shown}, ", 'jnp.asarray(...)'
    )


def test_coefficients_of_what_is_no_array_are_refused_by_leaf():
    state = scale_by_diffgrad().init(PARAMS)
    with pytest.raises(TypeError, match=r"gradient \['gain'\] is a torch.Tensor, "):
        friction_coefficients({**PARAMS, 'gain': Tensor()}, state, 'dfc')


@pytest.mark.parametrize('around', [with_friction, quantize_state])
def test_inner_update_that_is_no_array_is_refused_by_leaf(around):
    def update(updates, state, params=None):
        return {**updates, 'gain': Tensor()}, state

    inner = optax.GradientTransformation(optax.identity().init, update)
    optimizer = around(inner)
    with pytest.raises(TypeError) as refusal:
        optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert_names(refusal, "inner's update ['gain'] is a torch.Tensor, ")


@pytest.mark.parametrize('maker', MAKERS)
def test_python_and_numpy_numbers_are_gradients(maker):
    optimizer = make_with(maker)
    params = {'w': jnp.zeros(()), 'v': jnp.zeros(())}
    state = optimizer.init(params)
    grads = {'w': 0.5, 'v': np.float64(0.5)}
    updates, _ = optimizer.update(grads, state, params)
    expected, _ = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
    assert all(isinstance(update, jax.Array) for update in updates.values())
    assert updates == expected


@pytest.mark.parametrize('around', [with_friction, quantize_state])
def test_inner_update_may_be_a_python_number(around):
    def update(updates, state, params=None):
        return jax.tree.map(float, updates), state

    inner = optax.GradientTransformation(optax.identity().init, update)
    optimizer = around(inner)
    grads = {'gain': jnp.array(0.5)}
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    expected = 0.5 * 1 / (1 + np.exp(-0.5)) if around is with_friction else 0.5
    np.testing.assert_allclose(updates['gain'], expected)


def test_gradients_of_another_dtype_fit():
    optimizer = with_friction(optax.identity())
    grads = jax.tree.map(lambda p: p.astype(np.float32), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype('float32')}
