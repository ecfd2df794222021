"""experiments/landscapes: functions, the search, and what is written of it."""

import inspect
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffgrad_optax
from diffgrad_optax import diffgrad
from experiments.lab.cli import UserError
from experiments.landscapes import optimizers, report, run, search
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import OPTIMIZERS
from experiments.landscapes.search import RATES

DOCS = Path(__file__).parents[2] / 'docs'
RECORD = json.loads((DOCS / 'results/landscapes.json').read_text())

every_function = pytest.mark.parametrize('function', FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.mark.slow
@every_function
def test_minima_are_flat_and_nothing_beside_them_or_on_a_grid_is_lower(function):
    angles = np.linspace(0, 2 * np.pi, 100)
    circle = 1e-3 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    for point in np.array(function.minima, float):
        np.testing.assert_allclose(function.value(point), 0.0, atol=1e-20)
        slope = jax.grad(function.value)(point)
        np.testing.assert_allclose(slope, 0.0, atol=1e-8)
        assert (function.value(point + circle) > 0).all()
    axes = map(np.linspace, function.low, function.high, (301, 301))
    assert function.value(np.stack(np.meshgrid(*axes), axis=-1)).min() >= 0


@every_function
def test_gradients_are_those_of_the_value(function):
    for point in search.starts(function, 0, 5):
        central = [
            (function.value(point + h) - function.value(point - h)) / 2e-6
            for h in 1e-6 * np.eye(2)
        ]
        slope = function.grad(point, np.zeros(2))
        np.testing.assert_allclose(slope, central, rtol=1e-5, atol=1e-6)


@every_function
def test_noise_is_the_noisy_functions_alone_and_even_about_the_gradient(function):
    point, normal = jnp.array([0.7, -1.3]), jnp.array([1.0, 2.0])
    true = jax.grad(function.value)(point)
    above, below = (function.grad(point, sign * normal) for sign in (1, -1))
    np.testing.assert_allclose((above + below) / 2, true, rtol=1e-12)
    assert (above == true).all() == (function.noise == 0)


def test_the_quadratic_is_the_one_that_is_told():
    point, normal = jnp.array([2.0, 3.0]), jnp.array([1.0, -1.0])
    function = FUNCTIONS['quadratic']
    assert function.value(point) == 0.5 * 2**2 + 20 / 2 * 3**2
    assert function.grad(point, normal).tolist() == [2 - 0.5, 20 * (3 + 0.5)]


def test_every_optimizer_of_the_package_is_compared():
    # These are parts of others that are.
    parts = {'scale_by_diffgrad', 'scale_by_adadiff', 'correct_by_difference'}
    functions = {
        name
        for name in diffgrad_optax.__all__
        if inspect.isfunction(getattr(diffgrad_optax, name))
    }
    made = set(re.findall(r'(\w+)\(', inspect.getsource(optimizers)))
    assert functions - parts - {'dequantize_state', 'friction_coefficients'} <= made
    coefficients = {f'diffgrad-{name}' for name in diffgrad_optax.friction.COEFFICIENTS}
    assert coefficients - {'diffgrad-dfc'} <= OPTIMIZERS.keys()


@pytest.mark.parametrize('first', [0, 64])
def test_both_halves_of_the_starts_are_in_every_part_of_the_box(first):
    function = FUNCTIONS['rosenbrock']
    low, high = np.array(function.low), np.array(function.high)
    unit = (search.starts(function, first, 64) - low) / (high - low)
    cells = {tuple(cell) for cell in (unit * 4).astype(int)}
    assert cells == {(i, j) for i in range(4) for j in range(4)}


@pytest.mark.slow
def test_a_path_is_that_of_a_plain_loop():
    function, place = FUNCTIONS['beale'], RATES.index(0.1)
    runs = search.run(function, OPTIMIZERS['diffgrad'], 2, 1, 6)
    point = jnp.array(search.starts(function, 2, 1)[0], jnp.float32)
    optimizer = diffgrad(0.1)
    state = optimizer.init(point)
    for step in range(7):
        np.testing.assert_allclose(runs.positions[place, 0, step], point, rtol=1e-5)
        loss = function.value(runs.positions[place, 0, step].astype(float))
        np.testing.assert_allclose(runs.losses[place, 0, step], loss, rtol=1e-12)
        grads = jax.grad(function.value)(point)
        updates, state = optimizer.update(grads, state, point)
        point = optax.apply_updates(point, updates)
    assert runs.final.shape == (len(RATES), 4)
    assert runs.final[place, 2] == runs.losses[place, 0, -1]


def test_a_run_that_leaves_the_numbers_scores_infinity():
    runs = search.run(FUNCTIONS['rosenbrock'], OPTIMIZERS['sgd'], 1, 1, 12)
    assert np.isinf(runs.final[-1]).all() and np.isfinite(runs.final[0]).all()
    assert run.numbers(runs.final[-1]) == [None, None]
    outcome = {'rate': 0.1, 'held_out': [None, 1.0, 2.0]}
    assert report.loss_cell('sgd', outcome) == '2.0e+00 at 0.1, 1 ∞'


def test_the_rate_is_that_of_the_lowest_median():
    final = np.ones((len(RATES), 3))
    final[5] = [0.5, 0.5, np.inf]
    final[6] = [np.inf, np.inf, 0.0]
    assert search.choose_rate(final) == 5


def test_losses_that_are_solved_are_told_apart_by_their_geometric_mean():
    final = np.ones((len(RATES), 3))
    final[3] = [1e-30, 1e-30, 1.0]
    final[7] = [1e-13, 1e-13, 0.1]
    assert search.choose_rate(final) == 7


def test_pairs_count_lower_equal_and_higher_starts():
    first = {'held_out': [1.0, 1e-14, 2.0, None]}
    second = {'held_out': [2.0, 1e-13, 1.0, None]}
    assert report.pair_cell(first, second) == '1 : 2 : 1'


def test_the_committed_tables_are_those_of_the_committed_numbers():
    page = (DOCS / 'results/landscapes.md').read_text(encoding='utf-8')
    assert page == report.tables(RECORD)


def test_the_committed_search_is_the_one_that_is_declared():
    defaults = run.Settings()
    assert RECORD['rates'] == list(RATES)
    assert RECORD['steps'] == defaults.steps and RECORD['starts'] == defaults.starts
    assert list(RECORD['functions']) == list(FUNCTIONS)
    for of in RECORD['functions'].values():
        assert list(of) == list(OPTIMIZERS)
        assert of['adam-half']['rate'] == of['diffgrad']['rate']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['adam-half', 'adam+lr_dropout'])
def test_the_committed_numbers_are_those_of_the_search(name):
    committed, count = RECORD['functions']['quadratic'][name], RECORD['starts']
    runs = search.run(
        FUNCTIONS['quadratic'], OPTIMIZERS[name], count, 1, RECORD['steps']
    )
    np.testing.assert_allclose(
        np.median(runs.final[:, :count], axis=1), committed['search'], rtol=1e-3
    )
    place = RATES.index(committed['rate'])
    np.testing.assert_allclose(
        runs.final[place, count:], committed['held_out'], rtol=1e-3
    )


@pytest.mark.parametrize(
    'arguments, named',
    [
        (['--steps', '0'], '--steps 0'),
        (['--starts', '3', '--shown', '4'], '--shown 4 must be at most --starts 3'),
        (['--optimizers', 'adam-half'], 'adam-half takes the rate of diffgrad'),
    ],
)
def test_settings_without_sense_are_refused(arguments, named, tmp_path):
    with pytest.raises(UserError, match=named):
        run.main([*arguments, '--out-dir', str(tmp_path)])
