"""Online problems: in round t a row arrives, and with it the loss f_t of the point.

Every loss is convex and every point lies in the box [-1, 1]^d, so that the conditions
of diffGrad's Theorem 1 hold: distances within the box are at most D∞ = 2 in an element
and D = 2√d, and gradients are at most `gradient_bound` in an element.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

RADIUS = 1.0  # of the box


class Constants(NamedTuple):
    """α_t = α/√t, β_{1,t} = β1 λ^{t-1} and β2, in the theorem's symbols."""

    alpha: float
    beta1: float
    decay: float  # λ
    beta2: float


class Problem(NamedTuple):
    """Losses, and what they are played with."""

    loss: Callable[[jax.Array, jax.Array], jax.Array]  # f_t(x) of x and the row
    rows: np.ndarray  # (rounds, d), float64
    gradient_bound: float  # G∞: no element of a gradient is larger, anywhere in the box
    constants: Constants


USUAL = Constants(0.1, 0.9, 0.99, 0.999)


def logistic(x: jax.Array, row: jax.Array) -> jax.Array:
    """log(1 + e^{-y w·x}), where the row is the features w times the label y = ±1."""
    return jnp.logaddexp(0.0, -row @ x)


def quadratic(x: jax.Array, row: jax.Array) -> jax.Array:
    """½ Σ a_i (x_i - row_i)²."""
    return 0.5 * jnp.sum(curvatures(len(row)) * (x - row) ** 2)


def small_quadratic(x: jax.Array, row: jax.Array) -> jax.Array:
    return 1e-4 * quadratic(x, row)


def linear(x: jax.Array, row: jax.Array) -> jax.Array:
    return row @ x


def curvatures(size: int) -> np.ndarray:
    """a_i, from 0.1 to 10."""
    return np.geomspace(0.1, 10.0, size)


def classification(features: np.ndarray, positive: np.ndarray, rounds: int) -> Problem:
    """Standardised features and a constant, in shuffled epochs."""
    spread = features.std(0)
    features = (features - features.mean(0)) / np.where(spread == 0, 1.0, spread)
    features = np.column_stack([features, np.ones(len(features))])
    signed = features * np.where(positive, 1.0, -1.0)[:, None]
    draw = np.random.default_rng(0)
    epochs = -(-rounds // len(signed))
    order = np.concatenate([draw.permutation(len(signed)) for _ in range(epochs)])
    bound = np.abs(signed).max()  # the logistic function's slope is below 1
    return Problem(logistic, signed[order[:rounds]], float(bound), USUAL)


def breast_cancer(rounds: int) -> Problem:
    features, benign = load_breast_cancer(return_X_y=True)
    return classification(features, benign == 1, rounds)


def digits(rounds: int) -> Problem:
    """Whether a digit is odd."""
    pixels, digit = load_digits(return_X_y=True)
    return classification(pixels, digit % 2 == 1, rounds)


def quadratics(rounds: int) -> Problem:
    """Ten elements, targets around a fixed point with noise of the box's size."""
    draw = np.random.default_rng(0)
    centre = draw.uniform(-0.5, 0.5, 10)
    rows = centre + draw.uniform(-1.0, 1.0, (rounds, 10))
    farthest = RADIUS + np.abs(centre) + 1.0
    return Problem(quadratic, rows, float((curvatures(10) * farthest).max()), USUAL)


def small_quadratics(rounds: int) -> Problem:
    """The same losses times 10⁻⁴, with long steps."""
    problem = quadratics(rounds)
    return problem._replace(
        loss=small_quadratic,
        gradient_bound=1e-4 * problem.gradient_bound,
        constants=Constants(30.0, 0.0, 0.5, 0.99),
    )


def lines(rows: np.ndarray, alpha: float, beta2: float) -> Problem:
    """Losses row·x, without momentum."""
    bound = float(np.abs(rows).max())
    return Problem(linear, rows, bound, Constants(alpha, 0.0, 0.5, beta2))


def periodic(rare: float, usual: float, rounds: int) -> np.ndarray:
    """`rare`, then `usual` twice, and again."""
    return np.where(np.arange(rounds) % 3 == 0, rare, usual)[:, None]


def random(rare: float, usual: float, chance: float, rounds: int) -> np.ndarray:
    """`rare` with this chance, else `usual`; ten elements are ten draws."""
    uniform = np.random.default_rng(0).uniform(size=(rounds, 10))
    return np.where(uniform < chance, rare, usual)


def adam_periodic(rounds: int) -> Problem:
    """Reddi, Kale and Kumar's Theorem 1 with C = 3 and β2 = 1/(1 + C²)."""
    return lines(periodic(3.0, -1.0, rounds), 0.5, 0.1)


def adam_random(rounds: int) -> Problem:
    """Their Theorem 3 with C = 10: the chance is (1 + δ)/(1 + C), and δ = 0.2."""
    return lines(random(10.0, -1.0, 1.2 / 11.0, rounds), 0.5, 0.9)


def friction_periodic(rounds: int) -> Problem:
    """Two gradients of 1 outweigh one of -1.7, but not once friction halves one."""
    return lines(periodic(-1.7, 1.0, rounds), 0.2, 0.99)


def friction_random(rounds: int) -> Problem:
    """Nine gradients of 1 outweigh one of -7, but not once friction halves most."""
    return lines(random(-7.0, 1.0, 0.1, rounds), 0.2, 0.99)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    'breast-cancer': breast_cancer,
    'digits': digits,
    'quadratics': quadratics,
    'small-quadratics': small_quadratics,
    'adam-periodic': adam_periodic,
    'adam-random': adam_random,
    'friction-periodic': friction_periodic,
    'friction-random': friction_random,
}
