"""One strict configuration for every test: what JAX can refuse, it refuses."""

import gc
import itertools
import os

import jax
import pytest

# XLA:CPU's older emitters compile the small programs of tests in two thirds of the
# time. `make test-all` has those that users have.
if os.environ.get('FAST_COMPILATION') and jax.__version_info__ < (0, 13):
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = (
        f'{flags} --xla_cpu_use_fusion_emitters=false'
        ' --xla_cpu_parallel_codegen_split_count=1'
    )

if not hasattr(jax, 'enable_x64'):  # before jax 0.8
    jax.enable_x64 = jax.experimental.enable_x64

jax.config.update('jax_enable_x64', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def float32():
    """For tests of what users run by default: 64-bit types off."""
    with jax.enable_x64(False):
        yield


TESTS = itertools.count(1)


def free_programs():
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='module', autouse=True)
def memory_of_a_file():
    """No compiled program outlives the file that needs it."""
    yield
    free_programs()


@pytest.fixture(autouse=True)
def memory_of_many_tests():
    """Nor are those of more than a hundred tests kept."""
    yield
    if next(TESTS) % 100 == 0:
        free_programs()
