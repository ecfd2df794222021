"""The images on the devices: which of them a step takes, and what it makes of them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.cifar.files import Dataset


class DeviceData(NamedTuple):
    """A data set on the devices."""

    train_images: jax.Array  # count × height × width × channels, uint8
    train_labels: jax.Array  # count, int32
    test_images: jax.Array
    test_labels: jax.Array
    mean: jax.Array  # of the training images, by channel: float32
    deviation: jax.Array


def data_parallel_mesh() -> Mesh:
    """All devices of all processes along one axis, over which each batch is split."""
    return jax.make_mesh(
        (jax.device_count(),),
        ('data',),
        axis_types=(AxisType.Auto,),
        devices=jax.devices(),
    )


def put_data(data: Dataset, mesh: Mesh) -> DeviceData:
    """Copies the data set, and the statistics that normalise it, to every device."""
    images = data.train.images
    # By histogram: exact, and without a floating-point copy of the data set.
    values = np.arange(256)
    counts = np.stack(
        [
            np.bincount(plane.ravel(), minlength=256)
            for plane in np.moveaxis(images, -1, 0)
        ]
    )
    mean = counts @ values / counts.sum(-1)
    deviation = np.sqrt(counts @ values**2 / counts.sum(-1) - mean**2)
    arrays = (*data.train, *data.test, np.float32(mean), np.float32(deviation))
    return DeviceData(*jax.device_put(arrays, NamedSharding(mesh, P())))


@functools.partial(jax.jit, static_argnames=('count', 'batch_size'))
def epoch_order(
    key: jax.Array, epoch: jax.Array, *, count: int, batch_size: int
) -> jax.Array:
    """The images of an epoch's batches: steps × batch_size, int32.

    A new permutation every epoch; what does not fill a batch is left out.
    """
    steps = count // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def normalise(images: jax.Array, data: DeviceData) -> jax.Array:
    """Zero mean and unit deviation by channel, float32."""
    return (images.astype(jnp.float32) - data.mean) / data.deviation


def augment(
    images: jax.Array, key: jax.Array, *, flip: bool, padding: int
) -> jax.Array:
    """Random crops of the zero-padded images, each mirrored with probability ½."""
    flip_key, crop_key = jax.random.split(key)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(crop_key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (offset[0], offset[1], 0), (height, width, channels)
        )

    return jax.vmap(crop)(padded, offsets)
