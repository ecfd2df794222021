"""CIFAR-10, CIFAR-100 and digits as uint8 arrays, read with suspicion.

CIFAR comes in two standard layouts, Python pickles and plain binary, each as a
folder or as the `.tar.gz` that it was published in; all eight are read from where
they lie. Pickles come from strangers, and a pickle can run any code, so they are
read by an unpickler that admits NumPy arrays and nothing else.
"""

import contextlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pooch
import requests
import sklearn.datasets
import sklearn.model_selection

from examples.common.cli import UserError

HOME = 'https://www.cs.toronto.edu/~kriz/'
IMAGE = (3, 32, 32)  # as the files have it: channels first
IMAGE_BYTES = 3 * 32 * 32


class Split(NamedTuple):
    """Images and their labels."""

    images: np.ndarray  # count × height × width × channels, uint8
    labels: np.ndarray  # count, int32


class Dataset(NamedTuple):
    """A data set and what training on it needs to know."""

    source: str  # where it was found
    train: Split
    test: Split
    classes: int
    flip: bool  # whether a mirrored image is still of its class
    padding: int  # of the random crops: zeros on each side


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
    """Loads `cifar10` or `cifar100` from `data_dir`, or the embedded `digits`.

    Args:
      name: the data set.
      data_dir: where CIFAR's folder or archive lies, or the folder itself. If it
        is empty or missing the archive is fetched into it. None is the user's
        cache directory, whose archive must have the known hash.

    Raises:
      UserError: if files are missing, truncated, or not what they should be.
    """
    if name == 'digits':
        return load_digits()
    cifar = CIFAR[name]
    directory = Path(pooch.os_cache('diffgrad-optax')) if data_dir is None else data_dir
    if data_dir is None or is_empty(directory):
        fetch(cifar, directory)
    source, read, binary = find(cifar, directory)
    decode = decode_binary if binary else decode_pickle
    suffix = '.bin' if binary else ''

    def split(names: Iterable[str], count: int) -> Split:
        parts = []
        for name in names:
            file = name + suffix
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


def is_empty(directory: Path) -> bool:
    return not directory.exists() or (
        directory.is_dir() and not any(directory.iterdir())
    )


def fetch(cifar: Cifar, directory: Path) -> None:
    """Downloads the python archive unless it is there; only the known hash is kept."""
    name = cifar.archives[0]
    try:
        pooch.retrieve(
            HOME + name, f'sha256:{cifar.sha256}', name, directory, progressbar=True
        )
    except (OSError, ValueError, requests.RequestException) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'could not fetch {HOME}{name} ({reason}): download it by other means, put '
            'it in a folder and name that with --data-dir'
        ) from error


def find(cifar: Cifar, directory: Path) -> tuple[Path, Callable[[str], bytes], bool]:
    """Finds one of the layouts: its place, a reader of its files, if it is binary."""
    if not directory.is_dir():
        raise UserError(f'--data-dir {directory} is not a directory')
    for index, folder in enumerate(cifar.folders):
        # `directory` itself may be the folder, under any name.
        first = cifar.train[0] + ('.bin' if index else '')
        for place in (directory / folder, directory):
            if (place / first).exists():
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


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f'cannot read {path} ({error.strerror}): fetch it again'
        ) from error


def read_archive(path: Path, folder: str) -> Callable[[str], bytes]:
    """A reader of the files in a `.tar.gz`, which is read once and not unpacked."""
    files = {}
    try:
        with tarfile.open(path, 'r:gz') as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    files[member.name.removeprefix('./')] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f'{path} is truncated or no .tar.gz ({error}): delete it and fetch it again'
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
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'{where} is truncated or no batch of CIFAR ({reason}): fetch it again'
        ) from error
    return checked(images, labels, cifar, where)


def checked(images: Any, labels: Any, cifar: Cifar, where: str) -> tuple[Any, Any]:
    """`images` and `labels` if they have the sizes and ranges of a batch."""
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


def latin1(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes an array's bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'text in encoding {encoding}')
    return text.encode('latin1')


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and plain containers; refuses every other name."""

    reconstruct = staticmethod(np.empty(0).__reduce__()[0])
    from_buffer = staticmethod(np.empty(0).__reduce_ex__(5)[0])
    admitted: ClassVar[dict[tuple[str, str], Any]] = {
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
        ('numpy.core.multiarray', '_reconstruct'): reconstruct,
        ('numpy._core.multiarray', '_reconstruct'): reconstruct,
        ('numpy.core.numeric', '_frombuffer'): from_buffer,
        ('numpy._core.numeric', '_frombuffer'): from_buffer,
        ('_codecs', 'encode'): latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'it asks for {module}.{name}, and only NumPy arrays are admitted'
            ) from None
