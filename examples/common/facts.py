"""What a run was made with, for whoever reads its results later."""

import platform
from importlib.metadata import version
from typing import Any

import jax
from jax.sharding import Mesh

PACKAGES = ('diffgrad-optax', 'flax', 'jax', 'jaxlib', 'optax')


def facts(mesh: Mesh) -> dict[str, Any]:
    """Devices, processes and versions, as JSON has it."""
    return {
        'devices': [device.device_kind for device in mesh.devices.flat],
        'mesh': dict(mesh.shape),
        'processes': jax.process_count(),
        'versions': {
            'python': platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }
