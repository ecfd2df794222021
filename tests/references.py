"""Oracles: the equations of the papers in NumPy float64, as loops and nothing else.

Every oracle works on one parameter array. `grads` is the list of its gradients
g_1, g_2, ... and the answer is a list with one array a step. `_prev` in a name
means the value before this step; before the first step it is zero.
"""

import numpy as np


def sigmoid(x):
    """σ(x) = 1/(1 + e^{-x}) of one number, without overflow on either side."""
    if x >= 0.0:
        return 1.0 / (1.0 + np.exp(-x))
    return np.exp(x) / (1.0 + np.exp(x))


def mean_and_deviation(array):
    """μ and ν: mean and population standard deviation of |g| over one array."""
    sizes = [abs(element) for element in array.flat]
    μ = 0.0
    for size in sizes:
        μ += size / len(sizes)
    variance = 0.0
    for size in sizes:
        variance += (size - μ) ** 2 / len(sizes)
    return μ, variance**0.5


def coefficient(name, grad, prev_grad):
    """ξ of one array by the name of the coefficient, element for element."""
    if grad.size == 0:
        return np.zeros(grad.shape)
    μ, ν = mean_and_deviation(grad)
    ξ = np.zeros(grad.shape)
    for i in np.ndindex(grad.shape):
        g, q = grad[i], prev_grad[i]
        if name == 'dfc':
            ξ[i] = sigmoid(abs(q - g))
        elif name == 'dfc1':
            ξ[i] = sigmoid(q - g)
        elif name == 'dfc2':
            ξ[i] = 9.0 * sigmoid(abs(q - g) / 2.0) - 4.0
        elif name == 'dfc3':
            ξ[i] = sigmoid(ν * abs(q - g) - μ)
        elif name == 'dfc4':
            ξ[i] = sigmoid(ν**2 * abs(q - g) - μ)
        elif name == 'dfc5':
            ξ[i] = sigmoid(ν**0.5 * abs(q - g) - μ)
        else:
            raise ValueError(name)
    return ξ


def coefficients(grads, name='dfc'):
    """ξ_1, ξ_2, ... of one array; the gradient before the first one is zero."""
    ξs = []
    prev_grad = np.zeros_like(grads[0])
    for grad in grads:
        ξs.append(coefficient(name, grad, prev_grad))
        prev_grad = grad
    return ξs


def adam(grads, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, nesterov=False):
    """Adam's updates before the learning rate; `nesterov` is optax.nadam's.

    A gradient that is zero from the first step on needs eps or eps_root above 0.
    """
    updates = []
    m = np.zeros(grads[0].shape)
    v = np.zeros(grads[0].shape)
    for t, grad in enumerate(grads, start=1):
        update = np.zeros(grad.shape)
        for i in np.ndindex(grad.shape):
            m[i] = b1 * m[i] + (1.0 - b1) * grad[i]
            v[i] = b2 * v[i] + (1.0 - b2) * grad[i] ** 2
            if nesterov:
                m_hat = b1 * m[i] / (1.0 - b1 ** (t + 1)) + (1.0 - b1) * grad[i] / (
                    1.0 - b1**t
                )
            else:
                m_hat = m[i] / (1.0 - b1**t)
            v_hat = v[i] / (1.0 - b2**t)
            update[i] = m_hat / (np.sqrt(v_hat + eps_root) + eps)
        updates.append(update)
    return updates


def diffgrad(grads, friction='dfc', **adam_hyperparameters):
    """diffGrad's updates before the learning rate: ξ_t times Adam's."""
    updates = []
    for ξ, u in zip(
        coefficients(grads, friction), adam(grads, **adam_hyperparameters), strict=True
    ):
        updates.append(ξ * u)
    return updates


def decoupled_decay(directions, param, learning_rates, weight_decay):
    """The updates -α_t (u_t + λ θ_t), where each one moves the θ of the next."""
    updates = []
    for direction, learning_rate in zip(directions, learning_rates, strict=True):
        update = -learning_rate * (direction + weight_decay * param)
        param = param + update
        updates.append(update)
    return updates
