"""Examples are run as users run them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def user_defaults():
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield
