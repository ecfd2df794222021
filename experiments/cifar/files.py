"""What a data set is, and how its files are found, fetched and read.

Whatever goes wrong with a file is a `UserError`: one line that names the file and
says what to do.
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.lab.cli import UserError

Found = TypeVar('Found')


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


def fetch_or_find(
    data_dir: Path | None,
    fetch: Callable[[Path], Found],
    find: Callable[[Path], Found],
) -> Found:
    """What `fetch` brings to an empty or missing directory, or `find` finds there.

    Args:
      data_dir: the directory; None is the user's cache, where `fetch` looks itself
        for what it has brought before.
      fetch: downloads into a directory.
      find: looks into a directory.
    """
    if data_dir is None:
        return fetch(Path(downloader(None).os_cache('diffgrad-optax')))
    try:
        if data_dir.exists() and not data_dir.is_dir():
            raise UserError(
                f'--data-dir {data_dir} is not a directory: name the folder it lies in'
            )
        return (fetch if is_empty(data_dir) else find)(data_dir)
    except OSError as error:
        raise UserError(
            f'cannot look into --data-dir {data_dir} ({error.strerror}): name the '
            'folder of the data, or a new one to have it fetched there'
        ) from error


def is_empty(directory: Path) -> bool:
    """Whether a download belongs there; one cut off leaves a `tmp…` file."""
    return not directory.exists() or all(
        path.name.startswith(('.', 'tmp')) for path in directory.iterdir()
    )


def downloader(data_dir: Path | None) -> ModuleType:
    """pooch, which nothing else needs: files that are there are read without."""
    try:
        import pooch
    except ImportError as error:
        raise UserError(
            f'--data-dir {data_dir} holds no data, and none are fetched without pooch: '
            'name the folder of the data, or pip install pooch'
        ) from error
    return pooch


def fetch_file(url: str, sha256: str, directory: Path) -> Path:
    """Downloads a file unless it is there; only one with the known hash is kept."""
    pooch = downloader(directory)
    name = url.rpartition('/')[2]
    try:
        pooch.retrieve(url, f'sha256:{sha256}', name, directory, progressbar=True)
    except (OSError, ValueError) as error:  # those of requests are OSErrors
        raise UserError(
            f'could not fetch {url} ({printable(error)}): download the data by other '
            'means, put it in a folder and name that with --data-dir'
        ) from error
    return directory / name


def read_file(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes, by default all; those of a `.gz` are decompressed."""
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
            return file.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f'{path} is truncated or no .gz ({printable(error)}): fetch it again'
        ) from error
    except OSError as error:
        raise UserError(
            f'cannot read {path} ({error.strerror}): fetch it again'
        ) from error


def printable(error: Exception) -> str:
    """The message of `error`, in part the file's own words, fit for one line."""
    text = ' '.join(str(error).split()) or type(error).__name__
    text = ''.join(c if c.isprintable() else '?' for c in text)
    return text if len(text) < 300 else f'{text[:300]}…'
