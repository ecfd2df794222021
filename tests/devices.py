"""Devices for other processes, whatever this machine has."""


def cpu_devices(count, *flags):
    """The environment in which JAX sees `count` CPU devices and no other."""
    counted = f'--xla_force_host_platform_device_count={count}'
    return {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join((counted, *flags))}
