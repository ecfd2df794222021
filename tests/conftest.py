"""One strict configuration for every test: what JAX can refuse, it refuses."""

import jax
import pytest

if not hasattr(jax, 'enable_x64'):  # before jax 0.8
    jax.enable_x64 = jax.experimental.enable_x64

jax.config.update('jax_enable_x64', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def float32():
    """For tests of what users run by default: 64-bit types off."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope='module', autouse=True)
def memory():
    """No compiled program outlives the file that needs it."""
    yield
    jax.clear_caches()
