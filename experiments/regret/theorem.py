r"""The right-hand side of diffGrad's Theorem 1, and a bound that holds instead.

Theorem 1 claims, with γ = β1²/√β2 < 1,

    R(T) ≤ D²/(2α(1-β1)) Σ_i (1 + e^{-|g_{1,i}|}) √(T v̂_{T,i})
         + α(1+β1) G∞/((1-β1) √(1-β2) (1-γ)²) Σ_i ‖g_{1:T,i}‖₂
         + Σ_i D∞² G∞ √(1-β2)/(2α(1-β1)(1-λ)²)

Without momentum every optimizer here steps by x_{t+1} = P(x_t - g_t/H_t), and whatever
positive numbers H_t are,

    R(T) ≤ D∞²/2 Σ_i Σ_t max(0, H_{t,i} - H_{t-1,i}) + ½ Σ_i Σ_t g_{t,i}²/H_{t,i}

with H_0 = 0. Where H_t never falls, the first sum is H_T: it telescopes.
"""

from typing import NamedTuple

import numpy as np

from experiments.regret.game import Game
from experiments.regret.problems import RADIUS, Problem


class Terms(NamedTuple):
    """The three terms of Theorem 1."""

    first: float
    second: float
    third: float


def printed_bound(problem: Problem, gradients: np.ndarray) -> Terms:
    """The theorem's terms after the rounds that these gradients are of."""
    rounds, size = gradients.shape
    alpha, beta1, decay, beta2 = problem.constants
    G, D_inf = problem.gradient_bound, 2 * RADIUS
    D = D_inf * np.sqrt(size)
    gamma = beta1**2 / np.sqrt(beta2)
    weights = beta2 ** np.arange(rounds - 1.0, -1.0, -1.0)
    nu_hat = weights @ gradients**2 / weights.sum()
    friction = 1 + np.exp(-np.abs(gradients[0]))
    norms = np.linalg.norm(gradients, axis=0)
    return Terms(
        first=D**2
        / (2 * alpha * (1 - beta1))
        * np.sum(friction * np.sqrt(rounds * nu_hat)),
        second=alpha
        * (1 + beta1)
        * G
        / ((1 - beta1) * np.sqrt(1 - beta2) * (1 - gamma) ** 2)
        * np.sum(norms),
        third=size
        * D_inf**2
        * G
        * np.sqrt(1 - beta2)
        / (2 * alpha * (1 - beta1) * (1 - decay) ** 2),
    )


class Telescope(NamedTuple):
    """What becomes of the sum that telescopes where H_t never falls; for each round."""

    bound: np.ndarray  # that holds for any H_t
    excess: np.ndarray  # Σ_t max(0, H_t - H_{t-1}) / max_t H_t; 1 if it telescopes


def telescope(game: Game) -> Telescope:
    """The bound for a game without momentum, from the steps that were taken."""
    H = -game.gradients / game.updates
    rises = np.cumsum(np.maximum(np.diff(H, axis=0, prepend=0.0), 0.0), axis=0).sum(1)
    squares = np.cumsum(np.sum(-game.gradients * game.updates, axis=1))
    highest = np.maximum.accumulate(H, axis=0).sum(1)
    return Telescope(
        (2 * RADIUS) ** 2 / 2 * rises + squares / 2,
        rises / highest,
    )
