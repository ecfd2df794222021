"""Records what the authors' corrected PyTorch code does, for test_trajectories.py.

    pip install torch torch_optimizer==0.3.0
    python tests/recorded/record_torch_optimizer.py

writes torch_optimizer_diffgrad.json beside this file: numbers only. It trains a
regression on minibatches in float64 with eps = 0, because that code adds ε in
another place than the paper and optax, and at 0 the places are the same.
"""

import json
import platform
from pathlib import Path

STEPS = 50
LEARNING_RATE = 1e-3
CONFIGURATIONS = [
    {'b1': b1, 'b2': b2, 'weight_decay': weight_decay}
    for b1, b2 in ((0.9, 0.999), (0.5, 0.9))
    for weight_decay in (0.0, 0.3)
]


def record(b1, b2, weight_decay):
    """Gradients as backward() left them, and the parameters around each step."""
    import torch
    import torch_optimizer

    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w, b = normal(3, 2).requires_grad_(), normal(2).requires_grad_()
    optimizer = torch_optimizer.DiffGrad(
        [w, b],
        lr=LEARNING_RATE,
        betas=(b1, b2),
        eps=0.0,
        weight_decay=weight_decay,
    )
    params, grads = [[w.tolist(), b.tolist()]], []
    for _ in range(STEPS):
        x, y = normal(4, 3), normal(4, 2)
        # Zeroed, not dropped: backward() then writes into the same buffer at every
        # step, where the authors' first code compared a gradient with itself.
        optimizer.zero_grad(set_to_none=False)
        torch.mean((torch.tanh(x @ w + b) - 3.0 * y) ** 2).backward()
        # Before the step, which adds the weight decay to the gradient in place.
        grads.append([w.grad.tolist(), b.grad.tolist()])
        optimizer.step()
        params.append([w.tolist(), b.tolist()])
    return {'grads': grads, 'params': params}


def main():
    import torch
    import torch_optimizer

    recording = {
        'optimizer': 'torch_optimizer.DiffGrad',
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'torch_optimizer': torch_optimizer.__version__,
        },
        'learning_rate': LEARNING_RATE,
        'eps': 0.0,
        'runs': [
            {**configuration, **record(**configuration)}
            for configuration in CONFIGURATIONS
        ],
    }
    path = Path(__file__).with_name('torch_optimizer_diffgrad.json')
    path.write_text(json.dumps(recording, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
