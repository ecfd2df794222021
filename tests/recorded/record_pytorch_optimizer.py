"""Records what an independent PyTorch MARS-AdamW does, for test_mars.py.

    pip install torch pytorch_optimizer==4.1.0
    python tests/recorded/record_pytorch_optimizer.py

writes pytorch_optimizer_mars.json beside this file: numbers only. It trains a
regression on minibatches in float64 with eps = 0, because that code adds ε in
another place than optax, and at 0 the places are the same; with matrices only,
because it trains vectors by AdamW.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

STEPS = 50
LEARNING_RATE = 1e-2
CONFIGURATIONS = [
    {'b1': 0.95, 'b2': 0.99, 'gamma': 0.025, 'weight_decay': 0.0},
    {'b1': 0.95, 'b2': 0.99, 'gamma': 0.025, 'weight_decay': 0.3},
    {'b1': 0.5, 'b2': 0.9, 'gamma': 0.8, 'weight_decay': 0.3},
]


def record(b1, b2, gamma, weight_decay):
    """Gradients as backward() left them, and the parameters around each step."""
    import torch
    from pytorch_optimizer import MARS

    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w1, w2 = normal(3, 2).requires_grad_(), normal(2, 2).requires_grad_()
    optimizer = MARS(
        [w1, w2],
        lr=LEARNING_RATE,
        betas=(b1, b2),
        gamma=gamma,
        weight_decay=weight_decay,
        weight_decouple=True,
        cautious=False,
        foreach=False,
        eps=0.0,
    )
    params, grads = [[w1.tolist(), w2.tolist()]], []
    for _ in range(STEPS):
        x, y = normal(4, 3), normal(4, 2)
        optimizer.zero_grad()
        torch.mean((torch.tanh(x @ w1) @ w2 - y) ** 2).backward()
        grads.append([w1.grad.tolist(), w2.grad.tolist()])
        optimizer.step()
        params.append([w1.tolist(), w2.tolist()])
    return {'grads': grads, 'params': params}


def main():
    recording = {
        'optimizer': 'pytorch_optimizer.MARS',
        'versions': {
            'python': platform.python_version(),
            'torch': version('torch'),
            'pytorch_optimizer': version('pytorch_optimizer'),
        },
        'learning_rate': LEARNING_RATE,
        'eps': 0.0,
        'runs': [
            {**configuration, **record(**configuration)}
            for configuration in CONFIGURATIONS
        ],
    }
    path = Path(__file__).with_name('pytorch_optimizer_mars.json')
    path.write_text(json.dumps(recording, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
