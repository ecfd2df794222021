"""optax's contract for its own contributed optimizers, with ours as the subjects.

The wheel of optax ships these tests as `optax/contrib/_common_test.py`. The source
runs as it is, but for the two tuples that name the subjects and the function that
finds a subject by its name, which are replaced before the test class is made.
"""

import ast
import collections
import importlib.util
import inspect
import re
import types
import unittest
from pathlib import Path

import jax
import optax
import pytest
from registry import REGISTRY, Entry

SOURCE = 'optax.contrib._common_test'
OPTIMIZERS = {
    name: entry
    for name, entry in REGISTRY.items()
    if 'learning_rate' in entry.kwargs and entry.stalls is None
}


def optax_tests(name: str, entry: Entry) -> type[unittest.TestCase]:
    """optax's test class, made for one optimizer."""
    spec = importlib.util.find_spec(SOURCE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'optax has moved its common tests out of {SOURCE}')
    path = Path(spec.origin)
    body = ast.parse(path.read_text(encoding='utf-8')).body
    first_class = next(
        (i for i, node in enumerate(body) if isinstance(node, ast.ClassDef)), len(body)
    )
    module = types.ModuleType(SOURCE)
    subject = {
        'opt_name': name,
        'opt_kwargs': dict(entry.kwargs),
        'wrapper_name': None,
        'wrapper_kwargs': None,
    }
    ours = {
        '_MAIN_OPTIMIZERS_UNDER_TEST': (subject,),
        '_ALL_OPTIMIZERS_UNDER_TEST': (subject,),
        '_get_opt_factory': {name: entry.make}.__getitem__,
    }
    for nodes, replaced in ((body[:first_class], ours), (body[first_class:], {})):
        exec(compile(ast.Module(nodes, []), path, 'exec'), vars(module))
        if missing := replaced.keys() - vars(module).keys():
            raise AttributeError(f'optax has renamed {sorted(missing)} in {path}')
        vars(module).update(replaced)
    if not hasattr(module, 'ContribTest'):
        raise AttributeError(f'optax has renamed ContribTest in {path}')
    return module.ContribTest


TESTS = {name: optax_tests(name, entry) for name, entry in OPTIMIZERS.items()}
# These differ most in what optax asks; `make test-all` has the others.
ALWAYS = ('diffgrad-nesterov-bfloat16', 'mars', 'swats', 'quantize_state-diffgrad')
CASES = [
    (name, case)
    for name, tests in TESTS.items()
    for case in unittest.defaultTestLoader.getTestCaseNames(tests)
]


@pytest.fixture
def default_types():
    # Globally, because the tests switch the global configuration in places, and
    # a context manager would win over that.
    jax.config.update('jax_enable_x64', False)
    yield
    jax.config.update('jax_enable_x64', True)


@pytest.mark.parametrize(
    ('name', 'case'),
    [
        pytest.param(*pair, marks=() if pair[0] in ALWAYS else pytest.mark.slow)
        for pair in CASES
    ],
)
@pytest.mark.usefixtures('default_types')
def test_optax_finds_no_fault(name, case):
    # debug() lets every failure through, those of subtests too.
    TESTS[name](case).debug()


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_meets_every_case_of_optax(name):
    counts = collections.Counter(
        re.match('test_[a-z_]*[a-z]', case).group()
        for optimizer, case in CASES
        if optimizer == name
    )
    schedules = (
        'test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such'
    )
    # At least: older versions of optax run some of them in several variants.
    assert counts >= collections.Counter(
        {
            'test_optimizers_accept_extra_args': 2,  # wrapped or not
            'test_optimizers': 4,  # problems
            'test_optimizers_can_be_wrapped_in_inject_hyperparams': 1,
            'test_preserve_dtype': 2,  # dtypes
            'test_gradient_accumulation': 2,  # dtypes
            'test_state_shape_dtype_shard_stability': 4,  # dtypes
            schedules: 1,
        }
    )


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_is_annotated_as_taking_a_schedule(name):
    # Or optax skips its case about schedules.
    learning_rate = inspect.signature(OPTIMIZERS[name].make).parameters['learning_rate']
    assert learning_rate.annotation == optax.ScalarOrSchedule
