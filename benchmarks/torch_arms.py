"""What of PyTorch is timed: `optimizer.step()` of others' optimizers, and a copy.

The gradients are in memory before the step, as after `backward()`, and making them
is not timed.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.timing import Arm, Running

# Module, class and arguments of each.
OPTIMIZERS = {
    'torch.optim.Adam(fused=True)': ('torch.optim', 'Adam', {'fused': True}),
    'torch_optimizer.DiffGrad': ('torch_optimizer', 'DiffGrad', {}),
    'pytorch_optimizer.DiffGrad(foreach=True)': (
        'pytorch_optimizer',
        'DiffGrad',
        {'foreach': True},
    ),
}


def installed(say: Callable[[str], None]) -> dict[str, Callable[..., Any]]:
    """The optimizers whose packages are there; `say` hears of the others."""
    found = {}
    for name, (module, kind, kwargs) in OPTIMIZERS.items():
        try:
            make = getattr(importlib.import_module(module), kind)
        except ImportError as error:
            say(f'left out {name}: {error}')
            continue
        found[name] = lambda params, make=make, kwargs=kwargs: make(
            params, lr=1e-3, **kwargs
        )
    return found


def working(tree: Any, say: Callable[[str], None]) -> dict[str, tuple[Any, int]]:
    """The optimizers that update a tree like `tree`, with the bytes of their state."""
    found = {}
    for name, make in installed(say).items():
        try:
            found[name] = make, state_bytes(make, tree)
        except Exception as error:  # JAX's times are worth having without it
            say(f'left out {name}: {error!r}')
    return found


def device() -> str:
    """The device that JAX computes on, in PyTorch's words."""
    return 'cuda' if jax.default_backend() == 'gpu' else 'cpu'


def wait() -> None:
    """Waits for the device."""
    import torch

    if device() == 'cuda':
        torch.cuda.synchronize()


def make_optimizer(make: Callable[..., Any], tree: Any) -> Any:
    """An optimizer of parameters like `tree`, with gradients."""
    import torch

    params = []
    for leaf in jax.tree.leaves(tree):
        kwargs = {'dtype': getattr(torch, leaf.dtype.name), 'device': device()}
        param = torch.nn.Parameter(torch.full(leaf.shape, 0.01, **kwargs))
        param.grad = torch.full(leaf.shape, 1e-3, **kwargs)
        params.append(param)
    return make(params)


def state_bytes(make: Callable[..., Any], tree: Any) -> int:
    """Bytes of an optimizer's state."""
    optimizer = make_optimizer(make, tree)
    optimizer.step()
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if hasattr(value, 'nbytes')
    )


def update_arm(make: Callable[..., Any], tree: Any) -> Arm:
    """Steps of an optimizer."""
    return lambda: Running(make_optimizer(make, tree).step, wait)


def copy_arm(size: int) -> Arm:
    """`size` float32 numbers read and written in place, times a number."""
    import torch

    def arm() -> Running:
        array = torch.ones(size, device=device())
        return Running(lambda: array.mul_(1.0), wait)

    return arm
