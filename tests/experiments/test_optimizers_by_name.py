"""experiments: optimizers by name, their composition, and learning rates."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffgrad_optax as package
from diffgrad_optax import schedules
from experiments.lab.cli import UserError
from experiments.lab.optimizer_parts import BASES, MODIFIERS, NAMES
from experiments.lab.optimizers import compose, make_optimizer
from experiments.lab.schedules import SCHEDULES, Length, Plateau

STUDY = {name: parts for name, parts in NAMES.items() if name.startswith('study-')}
MIXTURE = 'radamw+nesterov+noise+lr_dropout+lookahead'


def make(name, *, schedule='constant', seed=0, learning_rate=0.1, **arguments):
    return make_optimizer(
        compose(name, **arguments),
        learning_rate=learning_rate,
        schedule=schedule,
        length=Length(10, 1),
        seed=seed,
    )


def key_of(seed):
    return int(np.random.SeedSequence([seed, 0x6F7074]).generate_state(1)[0])


def steps(optimizer, count=12, lookahead=False):
    """The updates of a run along gradients of many sizes, and the last state."""
    rng = np.random.default_rng(0)
    params = {'w': jnp.asarray(rng.normal(size=(2, 3))), 'b': jnp.ones(3)}
    if lookahead:
        params = optax.LookaheadParams.init_synced(params)
    state = optimizer.init(params)
    trajectory = []
    for _ in range(count):
        scale = 10.0 ** rng.uniform(-2, 1)
        grads = {
            'w': jnp.asarray(scale * rng.normal(size=(2, 3))),
            'b': jnp.asarray(scale * rng.normal(size=3)),
        }
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


def assert_same(name, expected, **arguments):
    lookahead = compose(name).lookahead
    chex.assert_trees_all_close(
        steps(make(name, **arguments), lookahead=lookahead),
        steps(expected, lookahead=lookahead),
        rtol=1e-12,
    )


# One step of each optimizer by the equations in PyTorch's documentation, from the
# gradients so far: -update / learning rate.
def pytorch_step(name, grads):
    m = v = vmax = square = delta = total = 0.0
    for t, grad in enumerate(grads, 1):
        if name == 'sgdm':
            m = 0.9 * m + grad
            step = m
        elif name == 'nag':
            m = 0.9 * m + grad
            step = grad + 0.9 * m
        elif name == 'adagrad':
            total = total + grad**2
            step = grad / (np.sqrt(total) + 1e-10)
        elif name == 'adadelta':
            square = 0.9 * square + 0.1 * grad**2
            step = np.sqrt(delta + 1e-6) / np.sqrt(square + 1e-6) * grad
            delta = 0.9 * delta + 0.1 * step**2
        elif name == 'rmsprop':
            square = 0.99 * square + 0.01 * grad**2
            step = grad / (np.sqrt(square) + 1e-8)
        elif name == 'rmsprop-corrected':
            square = 0.9 * square + 0.1 * grad**2
            step = grad / (np.sqrt(square / (1 - 0.9**t)) + 1e-8)
        else:
            m = 0.9 * m + 0.1 * grad
            v = 0.999 * v + 0.001 * grad**2
            vmax = np.maximum(vmax, v)
            used = vmax if name == 'amsgrad' else v
            step = (m / (1 - 0.9**t)) / (np.sqrt(used / (1 - 0.999**t)) + 1e-8)
    return step / 2 if name == 'adam-half' else step


@pytest.mark.parametrize(
    'name',
    [
        'sgdm',
        'nag',
        'adagrad',
        'adadelta',
        'rmsprop',
        'rmsprop-corrected',
        'amsgrad',
        'adam',
        'adam-half',
    ],
)
def test_baselines_take_pytorchs_default_steps(name):
    optimizer = make(name)
    rng = np.random.default_rng(0)
    grads = list(rng.standard_normal((12, 5)) * 10.0 ** rng.uniform(-2, 1, (12, 1)))
    state = optimizer.init(jnp.zeros(5))
    for t, grad in enumerate(grads, 1):
        updates, state = optimizer.update(jnp.asarray(grad), state, jnp.zeros(5))
        # ε stands elsewhere in adagrad and amsgrad (the module says where): at
        # most 3e-7, beside gradients of 1e-2 and more.
        np.testing.assert_allclose(
            updates, -0.1 * pytorch_step(name, grads[:t]), rtol=1e-4
        )


PACKAGE = {
    'diffgrad': package.diffgrad(0.1),
    'diffgrad+nesterov': package.diffgrad(0.1, nesterov=True),
    'diffgradw': package.diffgradw(0.1, weight_decay=1e-2),
    **{f'diffgrad{i}': package.diffgrad(0.1, friction=f'dfc{i}') for i in range(1, 6)},
    'adam+friction=relative_dfc': package.diffgrad(0.1, friction='relative_dfc'),
    'diffrgrad': package.diffrgrad(0.1),
    'adadiff': package.adadiff(0.1),
    'adadiff+amsgrad+decay=0.1': package.adadiff(0.1, amsgrad=True, weight_decay=0.1),
    'mars': package.mars(0.1),
    'mars+decay=0.1': package.mars(0.1, weight_decay=0.1),
    'swats': package.swats(0.1),
    'sgd+gains': optax.chain(package.scale_by_gains(), optax.sgd(0.1)),
    'lion+correction=0.1': optax.chain(
        package.correct_by_difference(0.1, b1=0.9), optax.lion(0.1, weight_decay=0.0)
    ),
    'lion+friction': package.with_friction(optax.lion(0.1, weight_decay=0.0)),
    'adam+grad_dropout=0.3': optax.chain(
        package.gradient_dropout(0.3, key_of(0)), optax.adam(0.1)
    ),
    'adam+lr_dropout': optax.chain(
        optax.adam(0.1), package.learning_rate_dropout(0.5, key_of(0))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', PACKAGE)
def test_names_are_the_packages_own_optimizers(name):
    assert_same(name, PACKAGE[name])


def lookahead(fast):
    return optax.lookahead(fast, sync_period=5, slow_step_size=0.5)


def lr_dropout(optimizer):
    return optax.chain(optimizer, package.learning_rate_dropout(0.5, key_of(0)))


MOMENTUM = functools.partial(optax.sgd, 0.1, momentum=0.99)
# The study's 18, by optax's own optimizers.
BY_HAND = {
    'study-sgd': optax.sgd(0.1),
    'study-momentum': MOMENTUM(),
    'study-nesterov': MOMENTUM(nesterov=True),
    'study-sgdw': optax.chain(
        optax.trace(0.99),
        optax.add_decayed_weights(1e-6),
        optax.scale_by_learning_rate(0.1),
    ),
    'study-momentum-lr_dropout': lr_dropout(MOMENTUM()),
    'study-rmsprop': optax.adam(0.1, b1=0.0, b2=0.9),
    'study-adam': optax.adam(0.1),
    'study-adam-l2': optax.chain(optax.add_decayed_weights(1e-4), optax.adam(0.1)),
    'study-adamw': optax.adamw(0.1, weight_decay=1e-4),
    'study-adam-lr_dropout': lr_dropout(optax.adam(0.1)),
    'study-radam': optax.radam(0.1),
    'study-radamw': optax.chain(
        optax.scale_by_radam(),
        optax.add_decayed_weights(1e-4),
        optax.scale_by_learning_rate(0.1),
    ),
    'study-radam-lr_dropout': lr_dropout(optax.radam(0.1)),
    'study-nadam': optax.nadam(0.1),
    'study-lookahead-momentum': lookahead(MOMENTUM()),
    'study-lookahead-adam': lookahead(optax.adam(0.1)),
    'study-adam-noise': optax.chain(
        optax.add_noise(0.3, 0.55, key_of(0)), optax.adam(0.1)
    ),
    'study-adam-grad_dropout': optax.chain(
        package.gradient_dropout(0.9, key_of(0)), optax.adam(0.1)
    ),
}


@pytest.mark.parametrize('name', STUDY)
def test_presets_of_the_study_are_its_18_configurations(name):
    assert len(STUDY) == len(BY_HAND) == 18
    assert_same(name, BY_HAND[name])


def test_a_mixture_is_what_it_says():
    fast = optax.chain(
        optax.add_noise(0.3, 0.55, key_of(0)),
        optax.scale_by_radam(nesterov=True),
        optax.add_decayed_weights(1e-2),
        optax.scale_by_learning_rate(0.1),
        package.learning_rate_dropout(0.5, key_of(0)),
    )
    assert_same(MIXTURE, lookahead(fast))


@pytest.mark.parametrize('name', ['adam+decay', 'lion+decay', 'sgd+momentum+decay'])
def test_decay_is_not_scaled_by_friction_and_gradients_do_not_meet_it(name):
    optimizer = make(name + '=0.5+friction')
    params = jnp.full(3, 2.0)
    updates, _ = optimizer.update(jnp.zeros(3), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * 2.0)


def test_order_of_the_modifiers_does_not_matter():
    first, *rest = MIXTURE.split('+')
    turned = '+'.join([first, *reversed(rest)])
    chex.assert_trees_all_equal(
        steps(make(MIXTURE), lookahead=True), steps(make(turned), lookahead=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize('base', BASES)
def test_every_base_steps_with_every_modifier_that_it_takes(base):
    for modifier in MODIFIERS:
        name = f'{base}+{modifier}'
        if modifier == 'nesterov' and base == 'sgd':
            name = 'sgd+momentum+nesterov'
        elif base == 'lion' and modifier in ('gains', 'loss_scale'):
            continue  # makes none of these momenta turn
        elif modifier == 'quantized':
            continue  # these arrays are too small for it
        elif modifier == 'observed':
            continue  # changes nothing
        elif modifier == 'l2':
            name += '=0.5'  # enough to turn a sign, which is all that lion sees
        try:
            looks_ahead = compose(name).lookahead
        except UserError as refusal:
            assert f'{base} has no place for {modifier}' in str(refusal)
            continue
        plain = steps(make(base), count=7)
        modified = steps(make(name), count=7, lookahead=looks_ahead)
        modified = [getattr(params, 'fast', params) for params in modified]
        assert jnp.isfinite(modified[-1]['w']).all()
        assert (modified[-1]['w'] != plain[-1]['w']).any(), name


@pytest.mark.parametrize('schedule', ['constant', 'plateau'])
def test_quantized_is_quantize_state_around_all_but_lookahead(schedule):
    params = {'w': jnp.ones((4, 32), jnp.float32)}
    grads = {'w': jnp.linspace(-1, 1, 128, dtype=jnp.float32).reshape(4, 32)}
    optimizer = make('diffgrad+decay+quantized=128+lookahead', schedule=schedule)
    params = optax.LookaheadParams.init_synced(params)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    stored = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == (4, 32)]
    assert sorted(map(str, stored)) == ['int8', 'int8', 'uint8']
    expected = package.quantize_state(
        package.diffgradw(0.1, weight_decay=1e-2), min_size=128
    )
    exact, _ = expected.update(grads, expected.init(params.fast), params.fast)
    chex.assert_trees_all_close(updates.fast, exact, rtol=1e-6)


@pytest.mark.parametrize('name', list(NAMES))
def test_every_name_is_taken_apart(name):
    assert compose(name) == compose(NAMES[name])


@pytest.mark.parametrize(
    'name', [*BASES, *(name for name in NAMES if not name.startswith('study-'))]
)
def test_weight_decay_is_coupled_unless_the_name_ends_in_w(name):
    optimizer = make(name, weight_decay=0.5)
    params = jnp.full(3, 2.0)
    # Coupled, this gradient and 0.5 × the parameters cancel.
    updates, _ = optimizer.update(jnp.full(3, -1.0), optimizer.init(params), params)
    if name.endswith('w'):
        assert (jnp.abs(updates + 0.1) > 1e-3).all()
    else:
        np.testing.assert_array_equal(updates, 0.0)


def test_seeds_tell_random_optimizers_apart_and_share_the_others():
    assert make('diffgrad', seed=1) is make('diffgrad', seed=2)
    assert make(MIXTURE, seed=1) is make(MIXTURE, seed=1)
    one, other = (steps(make('adam+lr_dropout', seed=seed)) for seed in (1, 2))
    assert (one[-1]['w'] != other[-1]['w']).any()


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('adamm', "'adamm' is unknown. A base is one of sgd, adagrad"),
        ('adamm', r'names of compositions are sgdm, .*study-adam'),
        ('adam+friktion', r"'friktion' is unknown.* from loss_scale, l2"),
        ('adam+', "'' is unknown"),
        ('', "'' is unknown"),
        ('lookahead+adam', "'lookahead' is unknown"),
        ('adam+sgd', "'sgd' is unknown"),
        ('adamw+decay=0.1', r'adam\+decay\+decay=0.1 has decay twice.* A base is'),
        ('diffgrad+friction', 'has friction twice'),
        ('adam+noise+noise', 'has noise twice'),
        ('lion+nesterov', 'lion has no place for nesterov, which goes with sgd, adam'),
        ('adam+momentum', 'adam has no place for momentum, which goes with sgd'),
        ('adam+amsgrad', 'which goes with adadiff'),
        ('swats+decay', 'swats has no place for decay'),
        ('mars+correction', 'mars has no place for correction'),
        ('sgd+nesterov', r'nesterov needs a momentum, sgd\+momentum'),
        ('sgd+momentum=0+nesterov', 'nesterov needs a momentum'),
        ('adam+half=2', 'half takes no value'),
        ('adam+l2=much', "l2 must be a number, such as l2=0.0001, not 'much'"),
        ('adam+l2=', "not ''"),
        ('adam+l2=-1', 'l2 -1.0 must be finite and not negative'),
        ('adam+noise=nan', 'noise nan must be finite'),
        ('adam+noise=inf', 'noise inf must be finite'),
        ('adam+lr_dropout=2', 'lr_dropout 2.0 must be from 0 to 1'),
        ('adam+grad_dropout=1.1', 'grad_dropout 1.1 must be from 0 to 1'),
        ('sgd+momentum=1', 'momentum 1.0 must be from 0 to less than 1'),
        ('sgd+gains=1', 'gains 1.0 must be from 0 to less than 1'),
        ('adam+lookahead=0', 'lookahead 0 must be at least 1'),
        ('adam+lookahead=2147483648', 'lookahead 2147483648 must be .*2147483647'),
        (
            'adam+lookahead=2.5',
            "must be a whole number, such as lookahead=5, not '2.5'",
        ),
        ('adam+friction=dfc9', 'dfc9 is unknown: choose from dfc, dfc1'),
    ],
)
def test_unknown_and_contradictory_parts_are_refused(name, said):
    with pytest.raises(UserError, match=said) as refusal:
        compose(name)
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize(
    ('name', 'arguments', 'said'),
    [
        ('diffgrad', {'friction': 'dfc9'}, 'dfc9 is unknown: choose from dfc, dfc1'),
        ('adam', {'friction': 'dfc'}, r'such as diffgrad or adam\+friction, not adam'),
        ('diffgrad1', {'friction': 'dfc'}, '--friction dfc contradicts friction=dfc1'),
        ('adam+l2=1e-4', {'weight_decay': 0.1}, '--weight-decay 0.1 contradicts l2='),
        ('adamw', {'weight_decay': float('nan')}, 'decay nan must be finite'),
        ('adam', {'weight_decay': -1.0}, '^--weight-decay -1.0 must be finite'),
        ('adamw', {'weight_decay': math.nan}, '^--weight-decay nan must be finite'),
    ],
)
def test_flags_that_contradict_the_name_are_refused(name, arguments, said):
    with pytest.raises(UserError, match=said):
        compose(name, **arguments)


@pytest.mark.parametrize('rate', [-1.0, float('nan'), float('inf')])
def test_wrong_learning_rates_are_refused(rate):
    with pytest.raises(UserError, match=f'--learning-rate {rate} must be finite'):
        make('adam', learning_rate=rate)


@pytest.mark.parametrize('schedule', [*SCHEDULES, 'plateau'])
def test_a_run_has_at_most_the_steps_that_an_int32_counts(schedule, float32):
    make = functools.partial(
        make_optimizer, compose('adam'), learning_rate=0.1, schedule=schedule, seed=0
    )
    steps(make(length=Length(2**31 - 1, 1)), 1)
    with pytest.raises(UserError, match=r'--epochs 537 of 4000000 .* at most 536'):
        make(length=Length(537, 4_000_000))


def test_bases_have_learning_rates_of_their_own():
    for name, rate in (('adadelta', 1.0), ('lion', 1e-4), ('adam', 1e-3)):
        expected = steps(make(name, learning_rate=rate))
        chex.assert_trees_all_equal(steps(make(name, learning_rate=None)), expected)


# Learning rates over a run of 10 epochs of 4 steps, by hand at some of them.
LENGTH = Length(10, 4)
RATES = {
    'drop': {0: 1.0, 31: 1.0, 32: 0.1, 39: 0.1},
    'constant': {0: 1.0, 39: 1.0},
    'inverse': {0: 1.0, 20: 1 / 5.5, 40: 0.1},
    'halving': {0: 1.0, 7: 1.0, 8: 0.5, 16: 0.25, 39: 1 / 16},
    'triangular': {0: 0.1, 8: 0.55, 16: 1.0, 24: 0.55, 32: 0.1, 36: 0.325},
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rates_go_as_their_names_say(name):
    schedule = SCHEDULES[name](2.0, LENGTH)
    for step, part in RATES[name].items():
        np.testing.assert_allclose(schedule(step), 2.0 * part, rtol=1e-6)


@pytest.mark.parametrize('epochs', [1, 2, 3, 5, 6, 9, 10, 14, 19])
def test_rates_are_halved_four_times_and_rise_in_a_half_whatever_the_length(epochs):
    length = Length(epochs, 30)
    assert SCHEDULES['halving'](1.0, length)(30 * epochs - 1) == 1 / 16
    rates = [SCHEDULES['triangular'](1.0, length)(t) for t in range(30 * epochs)]
    top = min(15 * epochs, 120)
    np.testing.assert_allclose(rates[top], 1.0)
    assert np.argmax(rates) == top
    if epochs < 9:
        assert rates[-1] < 0.17


@pytest.mark.parametrize(('epochs', 'at'), [(1, 1), (3, 2), (5, 4), (100, 80)])
def test_the_rate_drops_after_four_fifths_of_whole_epochs(epochs, at):
    schedule = SCHEDULES['drop'](1.0, Length(epochs, 390))
    assert schedule(390 * at - 1) == 1.0
    np.testing.assert_allclose(schedule(390 * at), 0.1)


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rates_of_the_shortest_run_are_finite(name):
    rate = SCHEDULES[name](1.0, Length(1, 1))(0)
    assert 0.0 < rate <= 1.0


def test_schedules_of_the_package_are_used():
    expected = schedules.triangular(0.1, 1.0, 16)(5)
    np.testing.assert_allclose(SCHEDULES['triangular'](1.0, LENGTH)(5), expected)


def test_a_plateau_divides_the_rate_by_ten_after_five_epochs_without_progress():
    losses = [3.0, 2.0, 2.1, 2.0, 2.2, 2.3, 2.0, 1.0, 0.9]
    plateau = Plateau(jnp.float32(0.5), [])
    rates = [float(plateau.after(loss)) for loss in losses]
    np.testing.assert_allclose(rates, [0.5] * 6 + [0.05] * 3, rtol=1e-6)
    # The same after an interruption, from the losses before it.
    again = Plateau(jnp.float32(0.5), losses[:6])
    np.testing.assert_allclose(again.after(losses[6]), 0.05, rtol=1e-6)


def test_a_plateau_is_compiled_once_for_all_epochs(caplog):
    Plateau(jnp.float32(0.5), [3.0])
    with jax.log_compiles():
        Plateau(jnp.float32(0.5), [3.0, 2.0, 2.1])
    assert not [message for message in caplog.messages if 'Compiling' in message]


@pytest.mark.parametrize('name', ['diffgrad', 'swats', MIXTURE])
def test_the_rate_of_a_plateau_is_found_in_the_state_and_acts(name):
    optimizer = make(name, schedule='plateau')
    params = jnp.ones(50)
    if compose(name).lookahead:
        params = optax.LookaheadParams.init_synced(params)
    state = optimizer.init(params)
    grads = jnp.full(50, 2.0)
    free, _ = optimizer.update(grads, state, params)
    still = optax.tree.set(state, learning_rate=jnp.zeros(()))
    stopped, _ = optimizer.update(grads, still, params)
    free, stopped = (getattr(tree, 'fast', tree) for tree in (free, stopped))
    assert (free != 0.0).any()
    np.testing.assert_array_equal(stopped, 0.0)
