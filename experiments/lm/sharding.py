"""What lies on which device: fully sharded data parallelism.

The devices are a mesh of `data` × `fsdp`. Batches are split over both axes. Parameters
and the optimizer's state are split over `fsdp` and repeated over `data`: a device keeps
a part of each array, and a step gathers a layer's weights when it comes to them.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.lab.cli import UserError

BATCH = P(('data', 'fsdp'))


def make_mesh(fsdp: int | None = None) -> Mesh:
    """All devices of all processes, `fsdp` of them along that axis; None is all.

    Raises:
      UserError: if the devices do not divide.
    """
    count = jax.device_count()
    fsdp = count if fsdp is None else fsdp
    if fsdp < 1 or count % fsdp:
        raise UserError(
            f'--fsdp {fsdp} does not divide the {count} devices: choose one of '
            + ', '.join(str(n) for n in range(1, count + 1) if count % n == 0)
        )
    return jax.make_mesh(
        (count // fsdp, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2
    )


def shardings(tree: Any, mesh: Mesh) -> Any:
    """How each array of a state lies: split along its first axis that divides.

    By shape alone, so that an optimizer's moments lie like their parameters, and any
    optimizer's state and any number of devices will do.
    """
    parts = mesh.shape['fsdp']

    def of(leaf: Any) -> NamedSharding:
        for axis, size in enumerate(leaf.shape):
            if size % parts == 0:
                return NamedSharding(mesh, P(*[None] * axis, 'fsdp'))
        return NamedSharding(mesh, P())

    return jax.tree.map(of, tree)


def split_batch(x: jax.Array) -> jax.Array:
    """Splits `x` by its first axis among the devices of the mesh in context."""
    return constrain(x, BATCH)


def whole(x: jax.Array) -> jax.Array:
    """Gathers `x` on every device of the mesh in context."""
    return constrain(x, P())


def constrain(x: jax.Array, spec: P) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or (spec == BATCH and x.shape[0] % mesh.size):
        return x
    return jax.lax.with_sharding_constraint(x, spec)
