"""What a measurement leaves: a JSON file with every time and all that decides it."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from examples.common.facts import commit
from examples.common.files import write_atomically

RESULTS = Path(__file__).parent / 'results'
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


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes all of the file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + '\n')


def check_smoke(out_dir: Path | None) -> None:
    """Refuses to put numbers that mean nothing beside those that do."""
    if out_dir is None or out_dir.resolve().is_relative_to(RESULTS.resolve()):
        sys.exit(f'--smoke needs an --out-dir outside {RESULTS}')
