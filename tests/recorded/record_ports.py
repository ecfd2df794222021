"""Records what `DiffGrad` is in every published version of two PyTorch packages.

    pip install torch pytorch_ranger
    python tests/recorded/record_ports.py

takes some fifteen minutes, writes ports.json beside this file and prints the table of
docs/implementations.md. The versions are those that pip offers to this Python. Each is
installed apart, without what it depends on, and makes ten steps in float64 with
gradients that are given; its parameters are compared with those of what it may be.
"""

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PACKAGES = ('torch_optimizer', 'pytorch_optimizer')
LEARNING_RATE, B1, B2, DECAY = 1e-2, 0.9, 0.999, 0.1
GRADS = np.random.default_rng(0).normal(size=(10, 7))
ELSE = 'something else'


def friction(t, change):
    """ξ of diffGrad."""
    return 1 / (1 + np.exp(-np.abs(change)))


def only_at_first(t, change):
    """ξ where the previous gradient is the gradient itself."""
    return friction(t, change) if t == 1 else 0.5


def none_and_no_correction(t, change):
    """No friction, and the second moment as it is."""
    return 1 / np.sqrt(1 - B2**t)


OPTIMIZERS = {
    'diffGrad': friction,
    'Adam at half the learning rate': only_at_first,
    'Adam, v not bias-corrected': none_and_no_correction,
}
DECAYS = ('no effect', 'coupled', 'decoupled')


def expected(factor, decay):
    """The parameters after ten steps of Adam times `factor`, with ε = 0."""
    param = np.ones(GRADS.shape[1])
    m = v = prev_grad = np.zeros_like(param)
    for t, grad in enumerate(GRADS, start=1):
        if decay == 'decoupled':
            param = param * (1 - LEARNING_RATE * DECAY)
        if decay == 'coupled':
            grad = grad + DECAY * param
        m, v = B1 * m + (1 - B1) * grad, B2 * v + (1 - B2) * grad**2
        adam = m / (1 - B1**t) / np.sqrt(v / (1 - B2**t))
        param = param - LEARNING_RATE * factor(t, prev_grad - grad) * adam
        prev_grad = grad
    return param


def found(optimizer_class, reuse_buffer=False, weight_decay=0.0):
    """The parameters after ten steps of the installed package."""
    import torch

    param = torch.nn.Parameter(torch.ones(GRADS.shape[1], dtype=torch.float64))
    optimizer = optimizer_class(
        [param],
        lr=LEARNING_RATE,
        betas=(B1, B2),
        eps=1e-30,
        weight_decay=weight_decay,
    )
    for grad in torch.tensor(GRADS):
        if reuse_buffer and param.grad is not None:
            param.grad.copy_(grad)
        else:
            param.grad = grad.clone()
        optimizer.step()
    return param.detach().numpy()


def closest(params, candidates):
    """The name of the candidate that has these parameters."""
    for name, candidate in candidates.items():
        if np.allclose(params, candidate, rtol=1e-7, atol=0):
            return name
    return ELSE


def describe(package):
    """What `DiffGrad` of the installed package is."""
    module = __import__(package)
    if not hasattr(module, 'DiffGrad'):
        return None
    plain = {name: expected(f, None) for name, f in OPTIMIZERS.items()}
    name = closest(found(module.DiffGrad), plain)
    reused = closest(found(module.DiffGrad, reuse_buffer=True), plain)
    decay = ELSE
    if name in OPTIMIZERS:
        decayed = {decay: expected(OPTIMIZERS[name], decay) for decay in DECAYS}
        decay = closest(found(module.DiffGrad, weight_decay=DECAY), decayed)
    return {'optimizer': name, 'buffer reused': reused, 'weight decay': decay}


def versions(package):
    """All versions that pip offers, the oldest first."""
    pip = [sys.executable, '-m', 'pip', 'index', 'versions', '--pre', package]
    listed = subprocess.run(pip, check=True, capture_output=True, text=True).stdout
    (line,) = re.findall(r'Available versions: (.*)', listed)
    return line.split(', ')[::-1]


def install_and_describe(package, version):
    """The record of one version."""
    record = {'package': package, 'version': version}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps']
        pip += ['--no-warn-conflicts', '--target', folder, f'{package}=={version}']
        for command in (pip, [sys.executable, __file__, package]):
            done = subprocess.run(
                command,
                env={**os.environ, 'PYTHONPATH': folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return {**record, 'error': done.stderr.strip().splitlines()[-1]}
    return {**record, 'DiffGrad': json.loads(done.stdout.splitlines()[-1])}


def table(records):
    """Markdown: versions that follow each other and are alike as one row.

    What has no `DiffGrad` is left out.
    """
    columns = (
        'package',
        'versions',
        '`DiffGrad` is',
        'buffer reused',
        '`weight_decay`',
    )
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']

    def alike(record):
        return record['package'], record.get('DiffGrad'), record.get('error')

    for (package, what, error), group in itertools.groupby(records, alike):
        spanned = [record['version'] for record in group]
        span = ' to '.join(dict.fromkeys((spanned[0], spanned[-1])))
        cells = [f'an error: {error}', '', '']
        if what:
            same = what['buffer reused'] == what['optimizer']
            reused = 'the same' if same else what['buffer reused']
            cells = [what['optimizer'], reused, what['weight decay']]
        if what or error:
            lines.append(f'| {" | ".join((package, span, *cells))} |')
    return '\n'.join(lines)


def main():
    import torch

    records = []
    for package in PACKAGES:
        for version in versions(package):
            records.append(install_and_describe(package, version))
            print(records[-1], file=sys.stderr, flush=True)
    recording = {
        'versions': {
            'python': platform.python_version(),
            'torch': torch.__version__,
        },
        'records': records,
    }
    path = Path(__file__).with_name('ports.json')
    path.write_text(json.dumps(recording, indent=1) + '\n')
    print(table(records))


if __name__ == '__main__':
    if sys.argv[1:]:
        print(json.dumps(describe(sys.argv[1])))
    else:
        main()
