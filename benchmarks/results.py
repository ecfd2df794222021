"""What a measurement leaves: a JSON file with every time and all that decides it."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks.cli import UserError, commit, write_atomically

RESULTS = Path(__file__).parent / 'results'
SMOKE = 'SMOKE'  # a file that marks a folder of numbers that mean nothing
PACKAGES = (
    'jax',
    'jaxlib',
    'optax',
    'flax',
    'numpy',
    'torch',
    'torch-optimizer',
    'pytorch-optimizer',
)


def facts() -> dict[str, Any]:
    """Device, threads, what the C library's allocator was told, versions, commit."""
    threads = {'cpu_count': os.cpu_count(), 'jax': 'as XLA chooses'}
    if 'torch' in sys.modules:
        threads['torch'] = sys.modules['torch'].get_num_threads()
    return {
        'device': jax.devices()[0].device_kind,
        'backend': jax.default_backend(),
        'machine': platform.machine(),
        'threads': threads,
        'malloc': {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith('MALLOC_')
        },
        'versions': {'python': platform.python_version(), **versions()},
        'commit': commit(),
    }


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def positive(text: str) -> int:
    """A number of times, as argparse is given it."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} must be at least 1')
    return number


def folder(out_dir: Path | None, default: str, *, smoke: bool = False) -> Path:
    """The folder that results go to, there and writable before any is measured.

    Args:
      out_dir: where it is, if not in `RESULTS`.
      default: its name there.
      smoke: whether what goes there means nothing, and is kept apart from the rest.

    Raises:
      UserError: if it is a folder of the other kind.
      OSError: if it cannot be written to.
    """
    where = out_dir or RESULTS / default
    mark = where / SMOKE
    if not smoke and mark.exists():
        raise UserError(f'--out-dir {where} has what --smoke left: name another')
    if smoke and not mark.exists():
        if where.resolve().is_relative_to(RESULTS.resolve()):
            raise UserError(f'--smoke needs an --out-dir outside {RESULTS}')
        if where.is_dir() and any(where.iterdir()):
            raise UserError(f'--smoke needs an empty --out-dir, and {where} is not')
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=where):
        pass
    if smoke:
        mark.touch()
    return where


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes all of the file or nothing of it."""
    write_atomically(path, json.dumps(result, indent=1) + '\n')
