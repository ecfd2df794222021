"""The data sets as uint8 arrays, read with suspicion; here CIFAR and digits.

CIFAR comes in two standard layouts, Python pickles and plain binary, each as a
folder or as the `.tar.gz` that it was published in; all eight are read from where
they lie. Pickles come from strangers, and a pickle can run any code, so they are
read by an unpickler that admits NumPy arrays of integers and nothing else.
"""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn.datasets
import sklearn.model_selection

from experiments.cifar.files import (
    Dataset,
    Split,
    fetch_file,
    fetch_or_find,
    printable,
    read_file,
)
from experiments.cifar.mnist import load_mnist
from experiments.cifar.unpickle import ArrayUnpickler
from experiments.lab.cli import UserError

HOME = 'https://www.cs.toronto.edu/~kriz/'
IMAGE = (3, 32, 32)  # as the files have it: channels first
IMAGE_BYTES = 3 * 32 * 32


# Where the data set is, a reader of its files, and whether they are binary.
Found = tuple[Path, Callable[[str], bytes], bool]


class Cifar(NamedTuple):
    """One of the two data sets as it was published."""

    folders: tuple[str, str]  # python, binary
    archives: tuple[str, str]
    sha256: str  # of the python archive, the one that is fetched
    train: tuple[str, ...]  # names of the python files; binary ones add '.bin'
    test: str
    label_key: bytes
    label_bytes: int  # in a binary record, the last one is the label
    classes: int


CIFAR = {
    'cifar10': Cifar(
        folders=('cifar-10-batches-py', 'cifar-10-batches-bin'),
        archives=('cifar-10-python.tar.gz', 'cifar-10-binary.tar.gz'),
        sha256='6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce',
        train=tuple(f'data_batch_{i}' for i in range(1, 6)),
        test='test_batch',
        label_key=b'labels',
        label_bytes=1,
        classes=10,
    ),
    'cifar100': Cifar(
        folders=('cifar-100-python', 'cifar-100-binary'),
        archives=('cifar-100-python.tar.gz', 'cifar-100-binary.tar.gz'),
        sha256='85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7',
        train=('train',),
        test='test',
        label_key=b'fine_labels',
        label_bytes=2,
        classes=100,
    ),
}
TRAIN_COUNT, TEST_COUNT = 50_000, 10_000


def load(name: str, data_dir: Path | None) -> Dataset:
    """Loads a data set from `data_dir`, or the embedded `digits`.

    Args:
      name: `digits`, `mnist`, `cifar10` or `cifar100`.
      data_dir: where the files lie; for CIFAR its folder or archive, or the folder
        itself. If it is empty or missing they are fetched into it. None is the
        user's cache directory, whose files must have the known hashes.

    Raises:
      UserError: if files are missing, truncated, or not what they should be.
    """
    if name == 'digits':
        return load_digits()
    if name == 'mnist':
        return load_mnist(data_dir)
    return load_cifar(name, data_dir)


def load_cifar(name: str, data_dir: Path | None) -> Dataset:
    """Loads `cifar10` or `cifar100`; otherwise as `load`."""
    cifar = CIFAR[name]
    source, read, binary = fetch_or_find(
        data_dir, partial(fetch, cifar), partial(find, cifar)
    )
    decode = decode_binary if binary else decode_pickle
    suffix = '.bin' if binary else ''

    def split(names: Iterable[str], count: int) -> Split:
        parts = []
        for stem in names:
            file = stem + suffix
            parts.append(decode(read(file), cifar, f'{file} in {source}'))
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        if len(images) != count:
            raise UserError(
                f'{source} holds {len(images)} images where {name} has {count}: '
                'fetch it again'
            )
        # Channels last is the layout of JAX's convolutions.
        images = images.reshape(-1, *IMAGE).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), labels)

    return Dataset(
        source=str(source),
        train=split(cifar.train, TRAIN_COUNT),
        test=split([cifar.test], TEST_COUNT),
        classes=cifar.classes,
        flip=True,
        padding=4,
    )


def load_digits() -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8 × 8, four fifths to train."""
    digits = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    return Dataset(
        source='scikit-learn',
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        classes=10,
        flip=False,
        padding=1,
    )


def fetch(cifar: Cifar, directory: Path) -> Found:
    """Downloads the python archive unless it is there; only the known hash is kept."""
    archive = fetch_file(HOME + cifar.archives[0], cifar.sha256, directory)
    return archive, read_archive(archive, cifar.folders[0]), False


def find(cifar: Cifar, directory: Path) -> Found:
    """Finds one of the layouts in `directory`."""
    for index, folder in enumerate(cifar.folders):
        first = cifar.train[0] + ('.bin' if index else '')
        for place in (directory / folder, directory):
            # `directory` itself may be the folder, under any name.
            if (place / first).is_file() or (place.name == folder and place.is_dir()):
                return (
                    place,
                    lambda name, place=place: read_file(place / name),
                    bool(index),
                )
    for index, archive in enumerate(cifar.archives):
        if (directory / archive).exists():
            members = read_archive(directory / archive, cifar.folders[index])
            return directory / archive, members, bool(index)
    raise UserError(
        f'--data-dir {directory} holds none of {", ".join(cifar.folders)}, '
        f'{", ".join(cifar.archives)}: name the folder that does, or a new one to have '
        'it fetched there'
    )


def read_archive(path: Path, folder: str) -> Callable[[str], bytes]:
    """A reader of the files in a `.tar.gz`, which is read once and not unpacked."""
    files = {}
    try:
        with tarfile.open(path, 'r:gz') as archive:
            for member in archive:
                if member.isreg() and (file := archive.extractfile(member)):
                    files[member.name.removeprefix('./')] = file.read()
            # The checksum stands at the end, which a tar archive need not reach.
            while archive.fileobj and archive.fileobj.read(1 << 20):
                pass
    except Exception as error:  # a broken archive raises nearly anything
        raise UserError(
            f'{path} is truncated or no .tar.gz ({printable(error)}): delete it and '
            'fetch it again'
        ) from error

    def read(name: str) -> bytes:
        with contextlib.suppress(KeyError):
            return files[f'{folder}/{name}']
        raise UserError(f'{path} has no {folder}/{name}: delete it and fetch it again')

    return read


def decode_binary(data: bytes, cifar: Cifar, where: str) -> tuple[Any, Any]:
    """Records of label bytes and an image."""
    size = cifar.label_bytes + IMAGE_BYTES
    if not data or len(data) % size:
        raise UserError(
            f'{where} has {len(data)} bytes, no multiple of a record of {size}: it is '
            'truncated or another file, fetch it again'
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return checked(
        records[:, cifar.label_bytes :], records[:, cifar.label_bytes - 1], cifar, where
    )


def decode_pickle(data: bytes, cifar: Cifar, where: str) -> tuple[Any, Any]:
    """A dictionary of an array of images and a list of labels."""
    try:
        batch = ArrayUnpickler(io.BytesIO(data), encoding='bytes').load()
        # Files written again by Python 3 have text keys.
        batch = {k.encode() if isinstance(k, str) else k: v for k, v in batch.items()}
        images, labels = np.asarray(batch[b'data']), np.asarray(batch[cifar.label_key])
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(
            f'{where} is truncated or no batch of CIFAR ({printable(error)}): '
            'fetch it again'
        ) from error
    return checked(images, labels, cifar, where)


def checked(images: Any, labels: Any, cifar: Cifar, where: str) -> tuple[Any, Any]:
    """`images` and `labels` if they have the sizes and ranges of a batch."""
    if labels.ndim != 1:
        raise UserError(
            f'{where} has labels of shape {list(labels.shape)}, not a list: fetch it '
            'again'
        )
    if images.dtype != np.uint8 or images.shape != (len(labels), IMAGE_BYTES):
        raise UserError(
            f'{where} has images {images.dtype.name}{list(images.shape)} for '
            f'{len(labels)} labels, not uint8 of {IMAGE_BYTES} each: fetch it again'
        )
    if labels.dtype.kind not in 'iu' or not np.all(
        (labels >= 0) & (labels < cifar.classes)
    ):
        raise UserError(
            f'{where} has labels outside 0 … {cifar.classes - 1}: fetch it again'
        )
    return images, labels.astype(np.int32)
