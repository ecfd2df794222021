"""Gradient sequences that meet every case in which diffGrad could go wrong, and a tree
of the size that users have."""

import jax
import numpy as np

STEPS = 50


def gradient_trajectory(seed=0):
    """50 trees of gradients, the same at every call, float64.

    `kernel` has heavy tails: Cauchy, so that single elements are thousands of
    times their neighbours. Its columns have the scales 1e-6, 1e-2 and 1e2: with
    the first a coefficient is ½ to six digits, with the last it saturates.

    `bias` has one behaviour an element: it is always zero; zero at first; zero
    again in the end; turns its sign at every step; and repeats itself exactly for
    seven steps at a time.

    `gain` is a scalar, Student's t with two degrees of freedom, where a mean or a
    deviation over the array is one over a single number.
    """
    rng = np.random.default_rng(seed)
    kernels = rng.standard_cauchy((STEPS, 4, 3)) * np.array([1e-6, 1e-2, 1e2])
    gains = rng.standard_t(2, STEPS)
    trajectory = []
    for t in range(STEPS):
        bias = np.array(
            [
                0.0,
                0.0 if t < 10 else rng.normal(),
                0.0 if t > 30 else rng.normal(),
                (-1.0) ** t * 1.5,
                np.cos(t // 7),
            ]
        )
        trajectory.append(
            {'dense': {'kernel': kernels[t], 'bias': bias}, 'gain': np.array(gains[t])}
        )
    return trajectory


def initial_params(seed=1):
    """Parameters for :func:`gradient_trajectory`, of size 1."""
    rng = np.random.default_rng(seed)
    return {
        'dense': {'kernel': rng.normal(size=(4, 3)), 'bias': rng.normal(size=5)},
        'gain': np.array(rng.normal()),
    }


def resnet50():
    """Shapes of the diffGrad paper's network: 23,520,842 numbers in 161 arrays."""

    def normalized(*kernel):
        return [kernel, kernel[-1:], kernel[-1:]]

    shapes, features = normalized(3, 3, 3, 64), 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            shortcut = [] if block else normalized(features, 4 * width)
            shapes += [
                *normalized(features, width),
                *normalized(3, 3, width, width),
                *normalized(width, 4 * width),
                *shortcut,
            ]
            features = 4 * width
    shapes += [(features, 10), (10,)]
    return [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
