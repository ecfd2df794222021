"""What a run was made with, for whoever reads its results later."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

import diffgrad_optax

OUTSIDE_DOCS = ('--', ':(top)', ':(top,exclude)docs')
PACKAGES = ('flax', 'jax', 'jaxlib', 'optax')


def facts(mesh: Mesh) -> dict[str, Any]:
    """Devices, processes and versions, as JSON has it."""
    return {
        'devices': [device.device_kind for device in mesh.devices.flat],
        'mesh': dict(mesh.shape),
        'processes': jax.process_count(),
        'versions': {
            'python': platform.python_version(),
            'diffgrad-optax': diffgrad_optax.__version__,
            **{package: version(package) for package in PACKAGES},
        },
    }


def commit() -> str | None:
    """COMMIT's value, for copies of a checkout, else what is checked out, else None.

    It ends with -dirty where tracked files are others, the results in docs aside.
    """
    if told := os.environ.get('COMMIT'):
        return told
    try:
        changed = _git('status', '--porcelain', '--untracked-files=no', *OUTSIDE_DOCS)
        return _git('describe', '--always') + ('-dirty' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ['git', *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
