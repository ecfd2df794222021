"""docs/implementations.md: which DiffGrad of PyTorch's packages is diffGrad."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import references
from recorded import record_ports
from recorded.record_ports import B1, B2, DECAYS, GRADS, OPTIMIZERS, expected

pytestmark = pytest.mark.quick

TESTS = Path(__file__).parent


def test_the_table_is_that_of_the_recording():
    records = json.loads((TESTS / 'recorded/ports.json').read_text())['records']
    page = (TESTS.parent / 'docs/implementations.md').read_text()
    assert record_ports.table(records) in page


def test_what_a_port_may_be_differs_at_every_element():
    trajectories = [
        expected(factor, decay)
        for factor, decay in itertools.product(OPTIMIZERS.values(), DECAYS)
    ]
    for one, other in itertools.combinations(trajectories, 2):
        assert np.all(np.abs(one - other) > 1e-5)


@pytest.mark.parametrize('decay', DECAYS)
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_what_has_the_steps_of_a_candidate_is_called_by_its_name(name, decay):
    candidates = {name: expected(f, decay) for name, f in OPTIMIZERS.items()}
    steps = expected(OPTIMIZERS[name], decay)
    assert record_ports.closest(steps * (1 + 1e-9), candidates) == name
    assert record_ports.closest(steps * (1 + 1e-5), candidates) == record_ports.ELSE


def test_what_is_called_diffgrad_is_the_reference():
    grads = [grad[None] for grad in GRADS]
    adam = references.adam(grads, b1=B1, b2=B2, eps=0.0)
    steps = [
        ξ * step for ξ, step in zip(references.coefficients(grads), adam, strict=True)
    ]
    reference = 1 - record_ports.LEARNING_RATE * sum(steps)[0]
    np.testing.assert_allclose(expected(OPTIMIZERS['diffGrad'], None), reference, 1e-12)
