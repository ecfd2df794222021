"""experiments: friction as it is observed, its controls, and the page they make."""

import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from diffgrad_optax import friction_coefficients, with_friction
from experiments.cifar.config import Config as CifarConfig
from experiments.half_rate import experiment, run
from experiments.half_rate.friction_by_layer import compact
from experiments.half_rate.pictures import from_input
from experiments.half_rate.table import differences, tables
from experiments.lab.axes import plain_log_scale
from experiments.lab.cli import UserError
from experiments.lab.divergence import DivergedError
from experiments.lab.friction_histogram import BINS, observed, read
from experiments.lab.grid import chosen, draw_arm, draw_grid, over_rates
from experiments.lab.optimizers import compose, make_optimizer
from experiments.lab.record import Record
from experiments.lab.schedules import Length
from experiments.lab.tables import mean_with_error, of_seeds, spread

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
SHAPES = {'w': (7, 5), 'b': (3,)}


def make(name, learning_rate=0.1):
    return make_optimizer(
        compose(name),
        learning_rate=learning_rate,
        schedule='constant',
        length=Length(10, 1),
        seed=0,
    )


def gradients(count=6):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            name: jnp.asarray(10.0 ** rng.uniform(-9, 2) * rng.normal(size=shape))
            for name, shape in SHAPES.items()
        }


def trajectory(optimizer, scale=1.0):
    """The parameters after each step, and the last state."""
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    positions = []
    for grads in gradients():
        grads = jax.tree.map(lambda grad: scale * grad, grads)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        positions.append(params)
    return positions, state


def assert_equal(trees, others):
    jax.tree.map(np.testing.assert_array_equal, trees, others)


@pytest.mark.parametrize('friction', ['dfc', 'relative_dfc'])
@pytest.mark.usefixtures('float32')
def test_what_is_observed_are_the_coefficients_computed_beside_it(friction):
    plain = with_friction(optax.scale_by_adam(), friction)
    watching = observed(plain, friction)
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    state, watched = plain.init(params), watching.init(params)
    update, update_watched = jax.jit(plain.update), jax.jit(watching.update)
    coefficients_of = jax.jit(friction_coefficients, static_argnums=2)
    excess, bins, edges = [], [], 2.0 ** np.arange(-24, 1)
    for grads in gradients():
        coefficients = coefficients_of(grads, state, friction)
        excess.append([np.mean(np.float64(x) - 0.5) for x in coefficients.values()])
        bins.append(
            [
                np.bincount(np.digitize(np.float64(x).ravel() - 0.5, edges), None, BINS)
                / x.size
                for x in coefficients.values()
            ]
        )
        _, state = update(grads, state)
        _, watched = update_watched(grads, watched)
    _, seen = read(watched)
    assert seen['friction']['arrays'] == list(coefficients)
    assert seen['friction']['sizes'] == [x.size for x in coefficients.values()]
    np.testing.assert_allclose(
        seen['friction']['excess'], np.mean(excess, 0), rtol=1e-3, atol=1e-8
    )
    np.testing.assert_allclose(seen['friction']['bins'], np.mean(bins, 0), rtol=1e-3)
    assert np.count_nonzero(np.mean(bins, 0)) > 5


@pytest.mark.usefixtures('float32')
@pytest.mark.parametrize('name', ['diffgrad', 'adam+friction=relative_dfc'])
def test_observing_changes_no_bit_of_the_parameters(name):
    assert_equal(trajectory(make(name))[0], trajectory(make(f'{name}+observed'))[0])


def test_reading_begins_anew_and_leaves_the_rest():
    _, state = trajectory(make('diffgrad+observed'))
    began, seen = read(state)
    again, _ = read(trajectory(make('diffgrad+observed'))[1])
    assert seen and jax.tree.structure(began) == jax.tree.structure(state)
    assert_equal(began, again)
    steps = optax.tree.get(began, 'steps')
    assert steps == 0 and optax.tree.get(state, 'steps') == 6
    assert_equal(optax.tree.get(began, 'prev_grad'), optax.tree.get(state, 'prev_grad'))


def test_nothing_is_read_from_a_state_that_observes_nothing():
    _, state = trajectory(make('diffgrad'))
    began, seen = read(state)
    assert seen == {}
    assert_equal(began, state)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('adam+observed', 'observed needs a friction'),
        ('diffgrad+observed+quantized', 'not read from a quantized'),
        ('adam+frozen=half', 'frozen half must be numbers'),
        ('adam+frozen=0.5,-1', 'frozen 0.5,-1 must be numbers'),
        ('adam+loss_scale=-1', 'loss_scale -1.0 must be'),
    ],
)
def test_what_makes_no_sense_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        make(name)


def test_frozen_is_adam_times_a_constant_for_each_array():
    frozen, _ = trajectory(make('adam+frozen=0.25,0.75'))
    adam, _ = trajectory(make('adam'))
    for ours, theirs in zip(frozen, adam, strict=True):
        # In the order of the arrays in the tree: b before w.
        np.testing.assert_allclose(ours['b'], 0.25 * theirs['b'], rtol=1e-12)
        np.testing.assert_allclose(ours['w'], 0.75 * theirs['w'], rtol=1e-12)


def test_one_frozen_number_is_for_all_arrays_and_half_is_that_of_one_half():
    assert_equal(
        trajectory(make('adam+frozen=0.5'))[0], trajectory(make('adam-half'))[0]
    )


def test_frozen_numbers_that_do_not_fit_the_arrays_are_refused():
    with pytest.raises(UserError, match='3 numbers for 2 arrays'):
        make('adam+frozen=1,2,3').init({'w': jnp.ones(2), 'b': jnp.ones(1)})


@pytest.mark.parametrize('name', ['diffgrad', 'sgd', 'adam+l2=0'])
def test_loss_scale_is_the_optimizer_on_multiplied_gradients(name):
    scaled, _ = trajectory(make(f'{name}+loss_scale=100'))
    expected, _ = trajectory(make(name), scale=100.0)
    chex.assert_trees_all_close(scaled, expected, rtol=1e-12)
    assert (scaled[-1]['w'] != trajectory(make(name))[0][-1]['w']).any()


def test_coupled_decay_is_not_multiplied_with_the_loss():
    optimizer = make('sgd+loss_scale=100+l2=0.5', learning_rate=1.0)
    params = jnp.full(2, 4.0)
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -(100.0 + 0.5 * 4.0))


def test_a_layer_has_the_mean_and_the_bins_of_its_elements():
    friction = {
        'arrays': ['blocks/3/conv/kernel', 'blocks/3/norm/bias', 'blocks/3/norm/scale'],
        'sizes': [100, 1, 3],
        'excess': [0.1, 0.4, 0.2],
        'bins': [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
    }
    kept = compact(friction, layers=True)
    assert kept['excess'] == friction['excess']
    np.testing.assert_allclose(kept['mean'], 11.0 / 104, rtol=1e-3)
    assert list(kept['layers']) == ['blocks 3 weights', 'blocks 3 vectors']
    assert kept['layers']['blocks 3 vectors'] == {
        'size': 4,
        'mean': 0.25,
        'bins': [0.75, 0.25],
    }
    assert 'layers' not in compact(friction, layers=False)


def test_layers_are_drawn_from_the_input_to_the_output():
    resnet = ['blocks 0 weights', 'blocks 1 weights', 'conv weights', 'head vectors']
    assert from_input([*resnet, 'norm vectors']) == [
        'conv weights',
        'norm vectors',
        'blocks 0 weights',
        'blocks 1 weights',
        'head vectors',
    ]
    transformer = ['blocks 0 vectors', 'embed weights', 'head weights', 'norm vectors']
    assert from_input(transformer) == [
        'embed weights',
        'blocks 0 vectors',
        'norm vectors',
        'head weights',
    ]


def fake_train(config, say, read):
    """Leaves what a run leaves; its scores are told by the seed and the rate."""
    config.out_dir.mkdir()
    (config.out_dir / 'config.json').write_text(
        json.dumps({'settings': config.settings()})
    )
    line = {
        'epoch': 1,
        'seconds': 0.0,
        'train_loss': config.learning_rate + config.seed,
        'test_accuracy': 0.5 + 0.1 * config.seed,
    }
    if 'observed' in config.optimizer:
        bins = [[0.0] * (BINS - 1) + [1.0]] * 2
        line['friction'] = {
            'arrays': ['a/kernel', 'a/bias'],
            'sizes': [3, 1],
            'excess': [0.1, 0.3 + config.learning_rate],
            'bins': bins,
        }
    return SimpleNamespace(metrics=[line])


@pytest.fixture(scope='module')
def faked(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp('half_rate')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, 'train_cifar', fake_train)
        run.main(['--smoke', '--out-dir', str(out_dir)])
    return out_dir


def test_one_command_makes_lines_tables_pictures_and_says_that_it_is_done(faked):
    runs = len(experiment.smoke(None)['mlp'].runs())
    lines = (faked / 'half_rate-mlp.jsonl').read_text().splitlines()
    assert len(lines) == runs
    assert json.loads((faked / 'half_rate.json').read_text()) == {
        'scale': 'smoke',
        'runs': {'mlp': runs},
    }
    for picture in ('friction', 'rates', 'loss'):
        assert (faked / f'half_rate-{picture}.png').stat().st_size > 5000
    assert (
        '| diffgrad − adam-half | 0.00 ± 0.00 |' in (faked / 'half_rate.md').read_text()
    )


def test_frozen_runs_are_told_the_means_of_the_same_rate_and_seed(faked):
    network = experiment.smoke(None)['mlp']
    record = Record(faked / 'half_rate-mlp.jsonl')
    frozen = experiment.Run('diffgrad-frozen', 1e-2, 1)
    config = experiment.config_of(network, frozen, record)
    assert config.optimizer == 'adam+frozen=0.6,0.81'
    assert config.seed == 1 and config.learning_rate == 1e-2


def test_what_has_its_line_is_not_run_again(faked, monkeypatch):
    before = (faked / 'half_rate-mlp.jsonl').read_bytes()
    monkeypatch.setattr(experiment, 'train_cifar', None)
    run.main(['--smoke', '--out-dir', str(faked)])
    assert (faked / 'half_rate-mlp.jsonl').read_bytes() == before


def test_without_time_nothing_is_run_or_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(experiment, 'train_cifar', None)
    run.main(['--smoke', '--minutes', '0', '--out-dir', str(tmp_path)])
    assert 'nothing to show' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['runs']


def test_what_is_missing_again_is_shown_and_not_called_done(
    faked, monkeypatch, tmp_path
):
    out_dir = shutil.copytree(faked, tmp_path / 'half_rate')
    lines = (out_dir / 'half_rate-mlp.jsonl').read_text().splitlines(keepends=True)
    (out_dir / 'half_rate-mlp.jsonl').write_text(''.join(lines[1:]))
    monkeypatch.setattr(experiment, 'train_cifar', None)
    run.main(['--smoke', '--minutes', '0', '--out-dir', str(out_dir)])
    assert not (out_dir / 'half_rate.json').exists()
    text = (out_dir / 'half_rate.md').read_text()
    assert text.startswith('mlp, test accuracy (%), 2 seeds:')
    assert '| adam | 60.00 (1) | 55.00 ± 7.07 | – | – |' in text
    assert '| adam-half − adam | 0.00 (1) | 0.00 ± 0.00 | 0.00 ± 0.00 (3) |' in text
    assert '| adam | 55.00 ± 7.07 | 60.00 (1) | 55.00 ± 7.07 |' in text


def test_runs_that_diverge_are_results_and_their_controls_with_them(
    monkeypatch, tmp_path
):
    def train(config, say, read):
        result = fake_train(config, say, read)
        if (config.optimizer, config.learning_rate, config.seed) in diverge:
            raise DivergedError('the loss of step 3 is infinite or NaN', 'try again')
        return result

    diverge = {
        ('diffgrad+observed', 1e-2, 1),
        ('adam-half', 1e-2, 0),
        ('adam-half', 1e-2, 1),
    }
    monkeypatch.setattr(experiment, 'train_cifar', train)
    run.main(['--smoke', '--out-dir', str(tmp_path)])
    lines = (tmp_path / 'half_rate-mlp.jsonl').read_text().splitlines()
    runs = len(experiment.smoke(None)['mlp'].runs())
    # What was to be told of the one that diverged, cannot be run.
    assert len(lines) == runs - 1
    assert json.loads((tmp_path / 'half_rate.json').read_text())['runs'] == {
        'mlp': runs
    }
    text = (tmp_path / 'half_rate.md').read_text()
    whole, half = '55.00 ± 7.07', '50.00 (1), 1 diverged'
    assert f'| adam | {whole} | {whole} | 0.001 | {whole} |' in text
    assert f'| adam-half | {whole} | 2 diverged | 0.001 | {whole} |' in text
    for arm in ('diffgrad', 'diffgrad-frozen'):
        assert f'| {arm} | {whole} | {half} | 0.001 | {whole} |' in text
    zero = '0.00 ± 0.00'
    assert (
        f'| diffgrad − diffgrad-frozen | {zero} | 0.00 (1), 1 diverged '
        f'| {zero} (3), 1 diverged |'
    ) in text
    assert f'| diffgrad − adam-half | {zero} | 2 diverged |' in text
    monkeypatch.setattr(experiment, 'train_cifar', None)
    run.main(['--smoke', '--out-dir', str(tmp_path)])
    assert (tmp_path / 'half_rate-mlp.jsonl').read_text().splitlines() == lines


def test_what_diverged_where_it_is_looked_at_closely_is_not_drawn(
    monkeypatch, tmp_path
):
    def train(config, say, read):
        result = fake_train(config, say, read)
        if config.learning_rate == 1e-3 and 'observed' in config.optimizer:
            raise DivergedError('the loss of step 3 is infinite or NaN', 'try again')
        return result

    monkeypatch.setattr(experiment, 'train_cifar', train)
    run.main(['--smoke', '--out-dir', str(tmp_path)])
    (tmp_path / 'half_rate-friction.png').touch()  # of a run that has no line any more
    run.main(['--smoke', '--out-dir', str(tmp_path)])
    text = (tmp_path / 'half_rate.md').read_text()
    assert '| diffgrad | 2 diverged | 2 diverged | 2 diverged |' in text
    assert '| dfc |' not in text
    assert not (tmp_path / 'half_rate-friction.png').exists()
    assert (tmp_path / 'half_rate-rates.png').stat().st_size > 5000
    assert (tmp_path / 'half_rate.json').exists()


@pytest.mark.parametrize('scale', ['embedded', 'paper'])
def test_data_that_are_missing_are_asked_for_before_anything_is_trained(
    scale, monkeypatch, tmp_path
):
    for name in ('train_cifar', 'train_lm'):
        monkeypatch.setattr(experiment, name, None)
    wrong = tmp_path / 'wrong'
    wrong.touch()
    with pytest.raises(UserError, match=f'--data-dir {wrong} is not a directory'):
        run.main([f'--scale={scale}', f'--data-dir={wrong}', f'--out-dir={tmp_path}'])
    assert [path.name for path in tmp_path.iterdir()] == ['wrong']


def test_data_of_finished_runs_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(experiment, 'cifar_checksum', pytest.fail)
    run.check_data(experiment.embedded(Path('nowhere')), RESULTS)


def test_data_are_not_asked_for_where_nothing_is_trained(tmp_path, capsys):
    wrong = tmp_path / 'wrong'
    wrong.touch()
    run.main(['--minutes=0', f'--data-dir={wrong}', f'--out-dir={tmp_path}'])
    assert 'nothing to show' in capsys.readouterr().out


def test_the_papers_scale_needs_its_images(tmp_path):
    with pytest.raises(UserError, match='--scale paper needs CIFAR-10'):
        run.main(['--scale=paper', f'--out-dir={tmp_path}'])


def test_the_papers_scale_has_five_rates_and_three_seeds():
    networks = experiment.paper(Path('data'))
    models = {
        'transformer': {
            'model': 'transformer',
            'width': 512,
            'layers': 6,
            'heads': 8,
            'context': 256,
            'batch_size': 32,
            'epochs': 6,
            'limit_train': None,
        },
        'resnet50': {
            'dataset': 'cifar10',
            'model': 'resnet50',
            'width': 64,
            'batch_size': 128,
            'epochs': 30,
            'precision': 'bfloat16',
            'limit_train': None,
        },
    }
    assert networks.keys() == models.keys()
    for name, network in networks.items():
        assert network.rates == (1.25e-4, 5e-4, 2e-3, 8e-3, 3.2e-2)
        assert (network.seeds, network.close) == ((0, 1, 2), 5e-4)
        told = network.config.settings()
        assert {key: told[key] for key in models[name]} == models[name]


@pytest.mark.parametrize('scale', experiment.SCALES)
def test_every_arm_of_a_network_has_the_same_rates_and_seeds(scale):
    for network in experiment.SCALES[scale](Path('data')).values():
        runs = network.runs()
        assert len(set(runs)) == len(runs)
        assert network.close in network.rates
        budgets = {
            arm: {(r.rate, r.seed) for r in runs if r.arm == arm and r.factor == 1.0}
            for arm in network.arms
        }
        (budget,) = set(map(frozenset, budgets.values()))
        assert len(budget) == len(network.rates) * len(network.seeds)


def test_a_rate_is_chosen_by_its_mean_and_only_from_all_of_them():
    def runs(*losses):
        return [
            [{'train_loss': 0.0, 'x': 1.0}, {'train_loss': y, 'x': y}] for y in losses
        ]

    of_rates = {0.1: runs(1.0, 5.0), 0.2: runs(2.5, 2.5)}
    assert chosen(of_rates, 'train_loss') == 0.2
    table = functools.partial(
        over_rates, seeds=2, choose='train_loss', show='x', digits=1
    )
    assert table({'a': of_rates}, (0.1, 0.2)).endswith(
        '| a | 3.0 ± 2.8 | 2.5 ± 0.0 | 0.2 | 2.5 ± 0.0 |'
    )
    assert table({'a': of_rates}, (0.1, 0.2, 0.3)).endswith('| 2.5 ± 0.0 | – | – | – |')
    # The seed that is missing may be the worst.
    with_fewer = of_rates | {0.2: of_rates[0.2][:1]}
    assert table({'a': with_fewer}, (0.1, 0.2)).endswith('| 2.5 (1) | – | – |')
    with_fewer = {rate: runs[:1] for rate, runs in of_rates.items()}
    assert table({'a': with_fewer}, (0.1, 0.2)).endswith('| 2.5 (1) | – | – |')
    # One that diverged is the worst, whatever its place.
    for diverged in ([[], *runs(1.0)], [*runs(1.0), []]):
        assert table({'a': of_rates | {0.1: diverged}}, (0.1, 0.2)).endswith(
            '| a | 1.0 (1), 1 diverged | 2.5 ± 0.0 | 0.2 | 2.5 ± 0.0 |'
        )
    assert table({'a': {0.1: diverged, 0.2: [[], []]}}, (0.1, 0.2)).endswith(
        '| a | 1.0 (1), 1 diverged | 2 diverged | – | – |'
    )


def test_a_line_is_broken_where_a_run_diverged_and_a_cross_says_so():
    axes = Figure().subplots()
    nan = math.nan
    values = {0.1: [1.0, 3.0], 0.2: [2.0, nan], 0.4: [4.0, 6.0], 0.8: [nan, nan]}
    draw_arm(axes, values, 'a', {'color': 'tab:blue'})
    line, *points, crosses = axes.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [2.0, nan, 5.0, nan])
    assert line.get_marker() == 'o'
    np.testing.assert_array_equal(points[1].get_ydata(), [2.0, nan])
    assert list(crosses.get_xdata()) == [0.2, 0.8]
    draw_arm(axes, {0.1: [1.0]}, 'b', {'color': 'tab:blue'})
    line, _ = axes.get_lines()[-2:]
    assert line.get_marker() == ''


def test_points_of_a_dashed_line_are_hollow_and_those_of_another_full():
    axes = Figure().subplots()
    draw_arm(axes, {0.1: [1.0]}, 'a', {'color': 'tab:blue', 'linestyle': '--'})
    draw_arm(axes, {0.1: [1.0]}, 'b', {'color': 'tab:blue'})
    _, hollow, _, full = axes.get_lines()
    assert hollow.get_markerfacecolor() == 'none'
    assert full.get_markerfacecolor() == 'tab:blue'


@pytest.mark.parametrize(
    'values, labels',
    [
        ([1.36, 2.1], '1.4 1.5 1.6 1.7 1.8 1.9 2 2.1'),
        ([0.5, 2.8], '0.5 1 2 3'),
        ([0.004, 2.0], '0.003 0.005 0.01 0.02 0.03 0.05 0.1 0.2 0.3 0.5 1 2'),
        ([1e-4, 2.0], '0.0001 0.001 0.01 0.1 1'),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers_that_have_room(values, labels):
    figure = Figure()
    axes = figure.subplots()
    axes.plot(values)
    plain_log_scale(axes)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    ticks = axes.yaxis.get_major_ticks() + axes.yaxis.get_minor_ticks()
    shown = {
        tick.get_loc(): tick.label1.get_text()
        for tick in ticks
        if low <= tick.get_loc() <= high
    }
    assert ' '.join(filter(None, (shown[place] for place in sorted(shown)))) == labels


def test_a_rate_at_which_all_diverged_is_in_the_picture(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *_, **__: limits.append(self.axes[0].get_xlim())
    )
    values = {'a': {0.1: [1.0], 0.2: [2.0], 0.8: [math.nan]}}
    draw_grid(tmp_path / 'x.png', {'t': values}, {'a': {'color': 'tab:blue'}}, 'rate')
    ((low, high),) = limits
    assert low < 0.1 and high > 0.8


def test_seeds_are_counted_in_words():
    assert [of_seeds(count) for count in (1, 2)] == ['1 seed', '2 seeds']


def test_spreads_are_those_of_samples_and_errors_those_of_means():
    assert spread([1.0, 2.0, 3.0, 4.0], 3) == '2.500 ± 1.291'
    assert mean_with_error([1.0, 2.0, 3.0, 4.0], 3) == '2.500 ± 0.645'
    assert spread([1.0], 2) == mean_with_error([1.0], 2) == '1.00'


def test_differences_are_between_runs_of_the_same_rate_and_seed():
    config = CifarConfig(model='mlp')
    network = experiment.Network(config, (0.1, 0.2), (0, 1), 0.1, ('adam', 'adam-half'))
    scores = {
        ('adam', 0.1): (0.5, 0.7),
        ('adam-half', 0.1): (0.4, 0.9),
        ('adam', 0.2): (0.3, 0.1),
        ('adam-half', 0.2): (0.6,),
    }
    lines = {
        experiment.Run(arm, rate, seed): {'metrics': [{'test_accuracy': score}]}
        for (arm, rate), of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    }
    half, *others = differences(network, lines).splitlines()[2:]
    assert half == (
        '| adam-half − adam | 5.00 ± 15.00 | 30.00 (1) | 13.33 ± 12.02 (3) |'
    )
    for other in others:
        assert other.endswith('| – | – | – |')


def test_the_committed_table_is_that_of_the_committed_lines():
    networks = experiment.embedded(Path('data'))
    lines = {
        name: experiment.results(network, Record(run.path_of(RESULTS, name)))
        for name, network in networks.items()
    }
    assert tables(networks, lines) + '\n' == (RESULTS / 'half_rate.md').read_text()
