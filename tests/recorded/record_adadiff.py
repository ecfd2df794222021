"""Records what the published AdaDiff code computes, for test_adadiff.py.

    pip install torch
    python tests/recorded/record_adadiff.py

writes adadiff.json beside this file: numbers only. The code is not a package, so
its arithmetic is written down here, in its order and in place, as its PyTorch
optimizer has it: ε is added to the stored average at every step. With amsgrad that
code adds ε to the stored maximum too, which then grows without bound; that addition
alone is left out.
"""

import json
import math
import platform
from pathlib import Path

STEPS = 50
LEARNING_RATE = 1e-3
CONFIGURATIONS = [
    {'b1': b1, 'b2': b2, 'eps_root': eps, 'amsgrad': amsgrad}
    for b1, b2, eps in ((0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3))
    for amsgrad in (False, True)
]


def gradients():
    """Heavy tails, scales that differ, repetitions and zeros."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sequence = []
    for step in range(STEPS):
        if step % 5 == 4:
            sequence.append(sequence[-1].clone())
            continue
        grad = torch.randn(3, 2, generator=generator, dtype=torch.float64) ** 3
        grad *= torch.tensor([[1.0], [1e-2], [1e-4]])
        if step > 30:
            grad[0] = 0.0
        sequence.append(grad)
    return sequence


def record(grads, b1, b2, eps_root, amsgrad):
    """The parameters around each step."""
    import torch

    param = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(3, 2)
    exp_avg, exp_avg_var = torch.zeros_like(param), torch.zeros_like(param)
    max_exp_avg_var = torch.zeros_like(param)
    previous_grad = torch.zeros_like(param)
    params = [param.tolist()]
    for step, grad in enumerate(grads, start=1):
        diff = grad - previous_grad
        exp_avg.mul_(b1).add_(grad, alpha=1 - b1)
        exp_avg_var.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        exp_avg_var.addcmul_(diff, diff, value=1 - b2).add_(eps_root)
        torch.maximum(max_exp_avg_var, exp_avg_var, out=max_exp_avg_var)
        var = max_exp_avg_var if amsgrad else exp_avg_var
        denom = var.sqrt().div_(math.sqrt(1 - b2**step))
        param.addcdiv_(exp_avg, denom, value=-LEARNING_RATE / (1 - b1**step))
        previous_grad.copy_(grad)
        params.append(param.tolist())
    return {'params': params}


def main():
    import torch

    grads = gradients()
    recording = {
        'optimizer': 'AdaDiff',
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
        },
        'learning_rate': LEARNING_RATE,
        'grads': [grad.tolist() for grad in grads],
        'runs': [
            {**configuration, **record(grads, **configuration)}
            for configuration in CONFIGURATIONS
        ],
    }
    path = Path(__file__).with_name('adadiff.json')
    path.write_text(json.dumps(recording, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
