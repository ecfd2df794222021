"""The networks by name, all called with the same keywords."""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx

from experiments.cifar.densenet import DenseNet
from experiments.cifar.layers import Activation
from experiments.cifar.mlp_cnn import CNN, MLP
from experiments.cifar.resnet import BasicBlock, Bottleneck, ResNet

ACTIVATIONS: dict[str, Activation] = {
    'relu': jax.nn.relu,
    'leaky_relu': partial(jax.nn.leaky_relu, negative_slope=0.1),
    'elu': jax.nn.elu,
    'selu': jax.nn.selu,
}

MODELS: dict[str, Callable[..., nnx.Module]] = {
    'resnet18': partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    'resnet34': partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    'resnet50': partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    'densenet121': partial(DenseNet, (6, 12, 24, 16)),
    'cnn': CNN,
    'mlp': MLP,
}
