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


def root_mean_square(array):
    """√mean |g|² over one array."""
    mean = 0.0
    for element in array.flat:
        mean += abs(element) ** 2 / array.size
    return mean**0.5


def coefficient(name, grad, prev_grad, c=1.0):
    """ξ of one array by the name of the coefficient, element for element.

    `c` is that of 'relative_dfc'.
    """
    if grad.size == 0:
        return np.zeros(grad.shape)
    μ, ν = mean_and_deviation(grad)
    rms = root_mean_square(grad)
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
        elif name == 'relative_dfc':
            if rms == 0.0:  # 0/0 is no change, and q/0 the largest.
                ξ[i] = 0.5 if q == 0.0 else 1.0
            else:
                ξ[i] = sigmoid(c * abs(q - g) / rms)
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


def radam(
    grads, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, nesterov=False
):
    """RAdam's updates before the learning rate; `nesterov` as in `adam`."""
    updates = []
    m = np.zeros(grads[0].shape)
    v = np.zeros(grads[0].shape)
    ρ_inf = 2.0 / (1.0 - b2) - 1.0
    for t, grad in enumerate(grads, start=1):
        ρ = ρ_inf - 2.0 * t * b2**t / (1.0 - b2**t)
        update = np.zeros(grad.shape)
        for i in np.ndindex(grad.shape):
            m[i] = b1 * m[i] + (1.0 - b1) * grad[i]
            v[i] = b2 * v[i] + (1.0 - b2) * grad[i] ** 2
            m_hat = m[i] / (1.0 - b1**t)
            if nesterov:
                m_hat = b1 * m[i] / (1.0 - b1 ** (t + 1)) + (1.0 - b1) * grad[i] / (
                    1.0 - b1**t
                )
            if ρ >= threshold:
                numerator = (ρ - 4.0) * (ρ - 2.0) * ρ_inf
                r = (numerator / ((ρ_inf - 4.0) * (ρ_inf - 2.0) * ρ)) ** 0.5
                v_hat = v[i] / (1.0 - b2**t)
                update[i] = r * m_hat / (np.sqrt(v_hat + eps_root) + eps)
            else:
                update[i] = m_hat
        updates.append(update)
    return updates


def adadiff(grads, b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8, amsgrad=False):
    """AdaDiff's updates before the learning rate: ε inside the average."""
    updates = []
    m = np.zeros(grads[0].shape)
    v = np.zeros(grads[0].shape)
    v_max = np.zeros(grads[0].shape)
    prev_grad = np.zeros(grads[0].shape)
    for t, grad in enumerate(grads, start=1):
        update = np.zeros(grad.shape)
        for i in np.ndindex(grad.shape):
            g, q = grad[i], prev_grad[i]
            m[i] = b1 * m[i] + (1.0 - b1) * g
            v[i] = b2 * v[i] + (1.0 - b2) * (g**2 + (g - q) ** 2) + eps_root
            v_max[i] = max(v_max[i], v[i])
            divisor = v_max[i] if amsgrad else v[i]
            v_hat = divisor / (1.0 - b2**t)
            update[i] = m[i] / (1.0 - b1**t) / (np.sqrt(v_hat) + eps)
        updates.append(update)
        prev_grad = grad
    return updates


def swats(grads, learning_rates, b1=0.9, b2=0.999, eps=1e-9, switch_tolerance=1e-9):
    """SWATS's updates, and the step of the switch (None without one).

    Of a whole tree: each of `grads` is a list of arrays, each update too.
    """
    updates = []
    m = [np.zeros(array.shape) for array in grads[0]]
    v = [np.zeros(array.shape) for array in grads[0]]
    velocity = [np.zeros(array.shape) for array in grads[0]]
    λ, switch_step, Λ = 0.0, None, None
    for t, (grad, α) in enumerate(zip(grads, learning_rates, strict=True), start=1):
        update = [np.zeros(array.shape) for array in grad]
        p_p, p_g = 0.0, 0.0
        for k, array in enumerate(grad):
            for i in np.ndindex(array.shape):
                g = array[i]
                if switch_step is not None:
                    velocity[k][i] = b1 * velocity[k][i] + g
                    rate = Λ * α / learning_rates[switch_step - 1]
                    update[k][i] = -(1.0 - b1) * rate * velocity[k][i]
                    continue
                m[k][i] = b1 * m[k][i] + (1.0 - b1) * g
                v[k][i] = b2 * v[k][i] + (1.0 - b2) * g**2
                m_hat, v_hat = m[k][i] / (1.0 - b1**t), v[k][i] / (1.0 - b2**t)
                p = -α * m_hat / (np.sqrt(v_hat) + eps)
                update[k][i] = p
                p_p, p_g = p_p + p * p, p_g + p * g
        updates.append(update)
        if switch_step is None and p_g != 0.0:
            γ = p_p / -p_g
            λ = b2 * λ + (1.0 - b2) * γ
            λ_hat = λ / (1.0 - b2**t)
            if t > 1 and λ_hat > 0.0 and abs(λ_hat - γ) < switch_tolerance:
                switch_step, Λ = t, λ_hat
    return updates, switch_step


def gains(grads, beta=0.05, min_gain=0.01, max_gain=100.0):
    """γ_1, γ_2, ... of one array: local gains, one a parameter, from γ_0 = 1."""
    answer = []
    γ = np.ones(grads[0].shape)
    prev_grad = np.zeros(grads[0].shape)
    for grad in grads:
        for i in np.ndindex(grad.shape):
            if prev_grad[i] * grad[i] > 0.0:
                γ[i] = γ[i] + beta
            elif prev_grad[i] * grad[i] < 0.0:
                γ[i] = γ[i] * (1.0 - beta)
            γ[i] = min(max(γ[i], min_gain), max_gain)
        prev_grad = grad
        answer.append(γ.copy())
    return answer


def corrected_gradients(grads, gamma=0.025, b1=0.95, max_norm=1.0):
    """MARS's c_1, c_2, ... of one array, shortened to `max_norm` where longer."""
    answer = []
    prev_grad = np.zeros(grads[0].shape)
    for grad in grads:
        c = np.zeros(grad.shape)
        square = 0.0
        for i in np.ndindex(grad.shape):
            c[i] = grad[i] + gamma * b1 / (1.0 - b1) * (grad[i] - prev_grad[i])
            square += c[i] ** 2
        if square**0.5 > max_norm:
            for i in np.ndindex(grad.shape):
                c[i] = c[i] * max_norm / square**0.5
        prev_grad = grad
        answer.append(c)
    return answer


def mars(grads, gamma=0.025, b1=0.95, b2=0.99, eps=1e-8):
    """MARS-AdamW's updates before the learning rate and the decay."""
    return adam(corrected_gradients(grads, gamma, b1), b1, b2, eps)


def companded(s, top):
    """Where a number s in [-1, 1] lies among the codes -top ... top."""
    return top * np.sign(s) * abs(s) ** 0.5


def level(code, largest, top):
    """The number that a code stands for: signed if `top` is 127, a square if 255."""
    s = code * abs(code) / top**2
    return largest * s if top == 127 else largest * s**2
