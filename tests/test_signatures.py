"""Names, order, defaults and kinds of the arguments of every public function."""

import inspect

import optax
import pytest

import diffgrad_optax as package
from diffgrad_optax import friction, schedules

pytestmark = pytest.mark.quick

REQUIRED = inspect.Parameter.empty
ADAM = {'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'eps_root': 0.0, 'mu_dtype': None}
ADADIFF = {'b1': 0.9, 'b2': 0.999, 'eps': 0.0, 'eps_root': 1e-8}
DECAY = {'weight_decay': None, 'mask': None}
STORAGE = {'nu_dtype': None, 'prev_grad_dtype': None}
ALL_STORAGE = {'mu_dtype': None, **STORAGE}
FRICTION = {'nesterov': False, 'friction': 'dfc'}
ARRAYS = {'grad': REQUIRED, 'prev_grad': REQUIRED}
KEEP = {'keep_prob': REQUIRED, 'key': REQUIRED}

# Arguments that may be given by position, and those that may not.
SIGNATURES = {
    package.scale_by_diffgrad: (ADAM, {**FRICTION, **STORAGE}),
    package.diffgrad: (
        {'learning_rate': REQUIRED, **ADAM},
        {**FRICTION, **DECAY, **STORAGE},
    ),
    package.diffgradw: (
        {'learning_rate': REQUIRED, **ADAM},
        {**FRICTION, **DECAY, 'weight_decay': 1e-4, **STORAGE},
    ),
    package.with_friction: (
        {'inner': REQUIRED, 'friction': 'dfc'},
        {'prev_grad_dtype': None},
    ),
    package.friction_coefficients: (
        {'grads': REQUIRED, 'opt_state': REQUIRED, 'friction': REQUIRED},
        {},
    ),
    package.diffrgrad: (
        {
            'learning_rate': REQUIRED,
            'b1': 0.9,
            'b2': 0.999,
            'eps': 1e-8,
            'eps_root': 0.0,
            'threshold': 5.0,
        },
        {**FRICTION, **DECAY, **ALL_STORAGE},
    ),
    package.scale_by_adadiff: (ADADIFF, {'amsgrad': False, **ALL_STORAGE}),
    package.adadiff: (
        {'learning_rate': REQUIRED, **ADADIFF},
        {'amsgrad': False, **DECAY, **ALL_STORAGE},
    ),
    package.gradient_dropout: (KEEP, {}),
    package.learning_rate_dropout: (KEEP, {}),
    package.swats: (
        {
            'learning_rate': REQUIRED,
            'b1': 0.9,
            'b2': 0.999,
            'eps': 1e-9,
        },
        {'switch_tolerance': 1e-9, **DECAY},
    ),
    package.scale_by_gains: ({'beta': 0.05}, {'min_gain': 0.01, 'max_gain': 100.0}),
    package.correct_by_difference: (
        {'gamma': 0.025, 'b1': 0.95},
        {'max_norm': 1.0, 'prev_grad_dtype': None},
    ),
    package.mars: (
        {'learning_rate': REQUIRED, 'b1': 0.95, 'b2': 0.99, 'eps': 1e-8},
        {
            'gamma': 0.025,
            'max_norm': 1.0,
            **DECAY,
            **ALL_STORAGE,
        },
    ),
    package.dequantize_state: ({'opt_state': REQUIRED}, {}),
    package.quantize_state: (
        {'inner': REQUIRED},
        {
            'block_size': 128,
            'min_size': 4096,
            'nonnegative': (
                *('nu', 'nu_max', 'n', 'exp_avg_sq', 'sum_of_squares', 'grad_sum_sq'),
                *('e_g', 'e_x', 'step_sizes', 'gains'),
            ),
            'exact': (
                *('z', 'x0', 'params0', 'init_params', 'init_particles'),
                *('params', 'updates', 'grad', 'cache'),
            ),
        },
    ),
    **{
        getattr(friction, name): (ARRAYS, {})
        for name in friction.COEFFICIENTS
        if name != 'relative_dfc'
    },
    friction.relative_dfc: ({**ARRAYS, 'c': 1.0}, {}),
    schedules.inverse_decay: ({'init_value': REQUIRED, 'decay_rate': REQUIRED}, {}),
    schedules.halving: ({'init_value': REQUIRED, 'transition_steps': REQUIRED}, {}),
    schedules.triangular: (
        {
            'init_value': REQUIRED,
            'peak_value': REQUIRED,
            'transition_steps': REQUIRED,
        },
        {},
    ),
}


@pytest.mark.parametrize('function', SIGNATURES, ids=lambda f: f.__name__)
def test_arguments_have_these_names_defaults_and_kinds(function):
    parameters = inspect.signature(function).parameters.values()
    by_position = {
        p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    by_name = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    positional, keyword_only = SIGNATURES[function]
    assert list(by_position.items()) == list(positional.items())
    assert list(by_name.items()) == list(keyword_only.items())
    assert len(parameters) == len(by_position) + len(by_name)


def test_every_public_function_is_in_the_table():
    modules = (package, friction, schedules)
    public = [getattr(module, name) for module in modules for name in module.__all__]
    assert {f for f in public if inspect.isfunction(f)} == set(SIGNATURES)


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        (package.diffgrad, optax.adam),
        (package.diffgradw, optax.adam),
        (package.scale_by_diffgrad, optax.scale_by_adam),
        (package.adadiff, optax.adabelief),
        (package.scale_by_adadiff, optax.scale_by_adam),
        (package.diffrgrad, optax.radam),
        (package.swats, optax.adam),
        (package.mars, optax.adam),
    ],
    ids=lambda f: f.__name__,
)
def test_arguments_of_optax_have_its_names_and_places(ours, theirs):
    parameters = (
        inspect.signature(ours).parameters,
        inspect.signature(theirs).parameters,
    )
    orders = [
        [name for name in own if name in other]
        for own, other in (parameters, reversed(parameters))
    ]
    assert orders[0] == orders[1]
