"""The network of experiments/cifar/resnet.py in PyTorch, and its training step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as all of PyTorch names it


class Bottleneck(nn.Module):
    """1×1, 3×3 (which has the stride) and 1×1 convolutions around a shortcut."""

    def __init__(self, features_in: int, width: int, stride: int) -> None:
        super().__init__()
        features = 4 * width
        self.conv1 = nn.Conv2d(features_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, features, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(features)
        self.projects = stride != 1 or features_in != features
        if self.projects:
            self.conv = nn.Conv2d(features_in, features, 1, stride, bias=False)
            self.norm = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, channels first."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(y + (self.norm(self.conv(x)) if self.projects else x))


class ResNet50(nn.Module):
    """A 3×3 stem without pooling, four stages, a global average pool, a head."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList()
        features = width
        for stage, size in enumerate((3, 4, 6, 3)):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(Bottleneck(features, width * 2**stage, stride))
                features = 4 * width * 2**stage
        self.head = nn.Linear(features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images, batch × channels × height × width."""
        x = F.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def augment(images: torch.Tensor, *, padding: int) -> torch.Tensor:
    """Random crops of the zero-padded images, each mirrored with probability ½."""
    count, _, height, width = images.shape
    at = {'device': images.device}
    mirrored = torch.rand(count, 1, 1, 1, **at) < 0.5
    images = torch.where(mirrored, images.flip(3), images)
    padded = F.pad(images, (padding,) * 4)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, count, 1), **at)
    rows = (tops + torch.arange(height, **at))[:, None, :, None]
    columns = (lefts + torch.arange(width, **at))[:, None, None, :]
    batch = torch.arange(count, **at)[:, None, None, None]
    channels = torch.arange(images.shape[1], **at)[None, :, None, None]
    return padded[batch, channels, rows, columns]


def make_step(
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    width: int,
    bfloat16: bool,
    mode: str | None,
) -> Callable[[torch.Tensor], Any]:
    """A training step on the images at some indices, as fast as PyTorch has it.

    Convolutions with channels last and in bfloat16 by autocast, the fused Adam, and
    the loss compiled. Images are cropped, mirrored and normalised on the device.

    Args:
      images: uint8, count × channels × height × width, on the device.
      labels: of the images.
      width: of the network.
      bfloat16: whether to compute in it; float32 otherwise.
      mode: of `torch.compile`; None leaves the loss uncompiled.
    """
    device = images.device
    model = ResNet50(10, width).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    pixels = images.float()
    mean = pixels.mean((0, 2, 3), keepdim=True)
    deviation = pixels.std((0, 2, 3), keepdim=True)
    del pixels
    torch.backends.cudnn.benchmark = True

    def loss(indices: torch.Tensor) -> torch.Tensor:
        batch = augment(images[indices], padding=4)
        batch = (batch.float() - mean) / deviation
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(batch)
        return F.cross_entropy(logits.float(), labels[indices])

    if mode is not None:
        loss = torch.compile(loss, mode=mode)

    def step(indices: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(indices).backward()
        optimizer.step()

    return step
