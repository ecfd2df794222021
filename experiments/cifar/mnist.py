"""MNIST from the four IDX files that it was published in, read with suspicion.

An IDX file is a magic number, a size for each dimension, both big-endian 32-bit
integers, and the bytes. The sizes are known beforehand: a header may confirm them,
and decides nothing.
"""

import math
import struct
from pathlib import Path

import numpy as np

from experiments.cifar.files import Dataset, Split, fetch_file, fetch_or_find, read_file
from experiments.lab.cli import UserError

HOME = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
SHA256 = {  # of the published files: these names and '.gz'
    'train-images-idx3-ubyte': (
        '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609'
    ),
    'train-labels-idx1-ubyte': (
        '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c'
    ),
    't10k-images-idx3-ubyte': (
        '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6'
    ),
    't10k-labels-idx1-ubyte': (
        'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'
    ),
}
TRAIN_COUNT, TEST_COUNT = 60_000, 10_000
SIDE = 28
CLASSES = 10
UNSIGNED_BYTES = 0x800  # in a magic number; the dimensions are added to it


def load_mnist(data_dir: Path | None) -> Dataset:
    """Loads MNIST.

    Args:
      data_dir: where the four files lie, as they are or as `.gz`, or the folder above
        torchvision's. If it is empty or missing they are fetched into it. None is
        the user's cache directory, whose files must have the known hashes.

    Raises:
      UserError: if files are missing, truncated, or not what they should be.
    """
    train_images, train_labels, test_images, test_labels = fetch_or_find(
        data_dir, fetch, find
    )
    return Dataset(
        source=str(train_images.parent),
        train=read_split(train_images, train_labels, TRAIN_COUNT),
        test=read_split(test_images, test_labels, TEST_COUNT),
        classes=CLASSES,
        flip=False,
        padding=2,
    )


def fetch(directory: Path) -> list[Path]:
    """Downloads the files unless they are there; only the known hashes are kept."""
    return [
        fetch_file(f'{HOME}{name}.gz', sha256, directory)
        for name, sha256 in SHA256.items()
    ]


def find(directory: Path) -> list[Path]:
    """Finds the files in one of the folders where they are usually put."""
    for place in (directory, directory / 'MNIST' / 'raw', directory / 'raw'):
        found = {name: path for name in SHA256 if (path := find_file(place, name))}
        if found:
            break
    missing = [name for name in SHA256 if name not in found]
    if missing:
        raise UserError(
            f'{place if found else f"--data-dir {directory}"} holds no '
            f'{", ".join(missing)}, with .gz or without: name the folder that does, '
            'or a new one to have them fetched there'
        )
    return list(found.values())


def find_file(place: Path, name: str) -> Path | None:
    """The file under one of the spellings of its name."""
    for spelling in (name, name.replace('-idx', '.idx')):
        for path in (place / spelling, place / f'{spelling}.gz'):
            if path.is_file():
                return path
    return None


def read_split(images: Path, labels: Path, count: int) -> Split:
    """The `count` images and labels of two files."""
    pixels = read_idx(images, (count, SIDE, SIDE))
    classes = read_idx(labels, (count,))
    if classes.max() >= CLASSES:
        raise UserError(
            f'{labels} has labels outside 0 … {CLASSES - 1}: fetch it again'
        )
    return Split(pixels[..., None], classes.astype(np.int32))


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of an IDX file, which are to be of `shape`."""
    start = 4 * (1 + len(shape))
    size = start + math.prod(shape)
    # A byte more than is wanted tells a file that is too long.
    data = read_file(path, size + 1)
    if len(data) >= start:
        magic, *found = struct.unpack(f'>{start // 4}I', data[:start])
        expected = UNSIGNED_BYTES + len(shape)
        if magic != expected:
            raise UserError(
                f'{path} starts with 0x{magic:08x}, not with 0x{expected:08x}: it is '
                'another file, fetch it again'
            )
        if tuple(found) != shape:
            raise UserError(
                f'{path} is of {" × ".join(map(str, found))} bytes where mnist has '
                f'{" × ".join(map(str, shape))}: fetch it again'
            )
    if len(data) != size:
        raise UserError(
            f'{path} has {"fewer" if len(data) < size else "more"} than {size} bytes: '
            'it is truncated or another file, fetch it again'
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
