"""experiments/lm: the networks, against loops over positions in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.lm.config import Config
from experiments.lm.layers import dropout
from experiments.lm.lstm import AWD, LSTM, Regularisation
from experiments.lm.transformer import Transformer, rotary

VOCABULARY = 256


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run the example: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


def transformer(rngs, **changes):
    arguments = {
        'vocabulary': VOCABULARY,
        'layers': 1,
        'width': 16,
        'hidden': 24,
        'heads': 2,
        'dropout': 0.0,
        'dtype': jnp.float32,
    }
    return Transformer(**arguments | changes, rngs=rngs)


def lstm(rngs, **changes):
    arguments = {
        'vocabulary': VOCABULARY,
        'layers': 2,
        'width': 8,
        'hidden': 12,
        'regularisation': Regularisation(),
        'dtype': jnp.float32,
    }
    return LSTM(**arguments | changes, rngs=rngs)


NETWORKS = {'transformer': transformer, 'lstm': lstm}
both = pytest.mark.parametrize('make', NETWORKS.values(), ids=NETWORKS)


def filled(make, **changes):
    """A network with parameters by NumPy, which compiles nothing."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0), **changes)))
    rng = np.random.default_rng(1)

    def fill(leaf):
        return jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(fill, state))


@jax.jit
def call(model, tokens, carry, key=None):
    return model(tokens, carry, key)


def logits_of(model, tokens, key=None):
    return np.asarray(call(model, tokens, model.initial_carry(len(tokens)), key).logits)


def some_tokens(batch=2, length=10):
    rng = np.random.default_rng(0)
    return rng.integers(0, VOCABULARY, (batch, length)).astype(np.int32)


def parameters(make):
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_transformer_has_the_parameters_of_its_formula():
    V, D, F, N = 256, 128, 512, 4
    expected = 2 * V * D + N * (4 * D**2 + 2 * D * F + 2 * D) + D
    make = Config(layers=4).network(256)
    assert parameters(make) == expected == 853_120


def test_the_lstm_has_the_parameters_of_the_published_code():
    config = Config(model='lstm', layers=3, width=400, hidden=1150)
    assert parameters(config.network(10_000)) == 24_221_600


@both
def test_a_later_token_changes_no_earlier_logit(make):
    model, tokens = filled(make), some_tokens()
    changed = tokens.copy()
    changed[:, 6] += 1
    before, after = logits_of(model, tokens), logits_of(model, changed % VOCABULARY)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(axis=-1).all()


@both
def test_the_first_loss_is_that_of_a_guess(make):
    model = jax.jit(lambda: make(nnx.Rngs(jax.random.key(0, impl='rbg'))))()
    logits, targets = logits_of(model, some_tokens()), some_tokens()[:, ::-1]
    log_sums = np.log(np.exp(logits).sum(-1))
    losses = log_sums - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses.mean(), math.log(VOCABULARY), rtol=0.01)


def test_the_transformer_is_what_a_loop_over_positions_computes():
    model, tokens = filled(transformer), some_tokens()
    block = model.blocks[0]
    heads, size = 2, 8

    def array(parameter):
        return np.asarray(parameter[...], np.float64)

    def normed(x, norm):
        return x / np.sqrt(np.mean(x**2) + 1e-6) * array(norm.scale)

    def turned(x, position):
        angles = position * 10_000.0 ** (-np.arange(size // 2) / (size // 2))
        pairs = (x[: size // 2] + 1j * x[size // 2 :]) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag])

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    xs = [array(model.embed.embedding)[token] for token in tokens[0]]
    qkvs = [
        (normed(x, block.attention_norm) @ array(block.attention.qkv.kernel)).reshape(
            3, heads, size
        )
        for x in xs
    ]
    expected = []
    for t, x in enumerate(xs):
        attended = []
        for head in range(heads):
            q = turned(qkvs[t][0, head], t)
            scores = [turned(qkvs[s][1, head], s) @ q / size**0.5 for s in range(t + 1)]
            weights = np.exp(scores) / np.exp(scores).sum()
            attended.append(sum(w * qkvs[s][2, head] for s, w in enumerate(weights)))
        y = x + np.concatenate(attended) @ array(block.attention.out.kernel)
        middle = gelu(normed(y, block.norm) @ array(block.up.kernel))
        y = y + middle @ array(block.down.kernel)
        expected.append(normed(y, model.norm) @ array(model.head.kernel))
    np.testing.assert_allclose(
        logits_of(model, tokens)[0], expected, rtol=1e-4, atol=1e-5
    )


def test_rotary_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (np.float32(rng.normal(size=8)) for _ in range(2))
    everywhere = np.ones((1, 12, 1, 1), np.float32)
    products = np.einsum(
        'bihk,bjhk->ij', rotary(everywhere * q), rotary(everywhere * k)
    )
    for distance in range(-11, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    assert abs(products[0, 0] - products[3, 0]) > 0.1


def test_the_lstm_is_what_a_loop_over_positions_computes():
    model, tokens = filled(lstm), some_tokens()

    def array(parameter):
        return np.asarray(parameter[...], np.float64)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    xs = [array(model.embedding)[token] for token in tokens[0]]
    for layer in model.layers:
        h = c = np.zeros(layer.units)
        outputs = []
        for x in xs:
            gates = x @ array(layer.input) + h @ array(layer.recurrent)
            gates += array(layer.input_bias) + array(layer.recurrent_bias)
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        xs = outputs
    expected = [x @ array(model.embedding).T + array(model.bias) for x in xs]
    np.testing.assert_allclose(
        logits_of(model, tokens)[0], expected, rtol=1e-4, atol=1e-6
    )


def test_two_windows_with_what_is_carried_are_one_window():
    model, tokens = filled(lstm), some_tokens()
    carry = model.initial_carry(2)
    whole = call(model, tokens, carry)
    first = call(model, tokens[:, :5], carry)
    second = call(model, tokens[:, 5:], first.carry)
    logits = np.concatenate([first.logits, second.logits], axis=1)
    np.testing.assert_allclose(logits, whole.logits, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        second.carry,
        whole.carry,
    )
    forgotten = call(model, tokens[:, 5:], carry).logits
    assert np.abs(forgotten - second.logits).max() > 1e-4


@pytest.mark.parametrize(
    ('make', 'changes'),
    [(transformer, {'dropout': 0.5}), (lstm, {'regularisation': AWD})],
    ids=NETWORKS,
)
def test_dropout_is_another_for_another_key_and_none_without(make, changes):
    model, tokens = filled(make, **changes), some_tokens()
    keys = [jax.random.key(seed, impl='rbg') for seed in (0, 1)]
    first, second = (logits_of(model, tokens, key) for key in keys)
    np.testing.assert_array_equal(first, logits_of(model, tokens, keys[0]))
    assert (first != second).any()
    np.testing.assert_array_equal(
        logits_of(model, tokens), logits_of(filled(make), tokens)
    )


def test_dropout_keeps_the_mean_and_its_part():
    kept = np.asarray(dropout(jnp.ones((100, 100)), 0.25, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(kept), [0, 4 / 3], rtol=1e-6)
    # Four standard deviations of 10,000 draws.
    np.testing.assert_allclose(np.mean(kept == 0), 0.25, atol=0.0174)


def test_a_network_drops_what_it_is_told():
    def made(**settings):
        network = Config(layers=1, width=16, **settings).network(VOCABULARY)
        return nnx.eval_shape(lambda: network(nnx.Rngs(0)))

    model = made(dropout=0.3)
    assert model.dropout == model.blocks[0].dropout == 0.3
    assert made(model='lstm').regularisation == Regularisation()
    assert made(model='lstm', awd=True).regularisation._asdict() == {
        'words': 0.1,
        'inputs': 0.4,
        'between': 0.25,
        'outputs': 0.4,
        'recurrent': 0.5,
        'activation': 2.0,
        'change': 1.0,
    }


def test_locked_dropout_takes_the_same_features_at_all_positions(monkeypatch):
    shapes = []

    def noted(x, rate, key, shape=None):
        shapes.append((rate, x.shape, shape))
        return x

    monkeypatch.setattr('experiments.lm.lstm.dropout', noted)
    model = filled(lstm, regularisation=AWD)
    jax.eval_shape(lambda: model(some_tokens(), model.initial_carry(2)))
    assert shapes == [
        (AWD.words, (256, 8), (256, 1)),
        (AWD.inputs, (2, 10, 8), (2, 1, 8)),
        (AWD.recurrent, (12, 48), None),
        (AWD.between, (2, 10, 12), (2, 1, 12)),
        (AWD.recurrent, (8, 32), None),
        (AWD.outputs, (2, 10, 8), (2, 1, 8)),
    ]


def test_the_penalty_is_of_dropped_outputs_and_of_the_change_of_all():
    weights = Regularisation(outputs=0.5, activation=2.0, change=3.0)
    model, tokens = filled(lstm, regularisation=weights), some_tokens()

    def hidden(key):
        # Logits are a tall matrix times the last layer's outputs, and biases.
        scores = (logits_of(model, tokens, key) - model.bias[...]).reshape(20, -1)
        outputs = np.linalg.lstsq(np.asarray(model.embedding[...]), scores.T)[0]
        return outputs.T.reshape(2, 10, 8)

    key = jax.random.key(0)
    dropped, raw = hidden(key), hidden(None)
    assert np.mean(np.abs(dropped) < 1e-5) > 0.2
    expected = 2 * np.mean(dropped**2) + 3 * np.mean(np.diff(raw, axis=1) ** 2)
    penalty = call(model, tokens, model.initial_carry(2), key).penalty
    np.testing.assert_allclose(penalty, expected, rtol=1e-4)
    assert call(filled(lstm), tokens, model.initial_carry(2)).penalty == 0


@both
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(make):
    model, tokens = filled(make, dtype=jnp.bfloat16), some_tokens()
    carry = model.initial_carry(2)
    leaves = jax.tree.leaves((nnx.state(model), carry))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    program = call.lower(model, tokens, carry).as_text()
    products = [line for line in program.splitlines() if 'dot_general' in line]
    assert products
    assert all('xbf16>' in line for line in products)
    result = jax.eval_shape(lambda: model(tokens, carry))
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.float32)}
