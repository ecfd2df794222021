"""What becomes of every public transformation on a mesh of eight devices, as JSON.

A process of its own for `test_sharding.py`, because the number of devices is fixed
when JAX starts.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import REGISTRY

from diffgrad_optax import (
    diffgrad,
    quantize_state,
    scale_by_diffgrad,
    with_friction,
)

try:
    import orbax.checkpoint as ocp
except ImportError:  # the package's tests run without what the examples need
    ocp = None

COLLECTIVES = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter'
SHAPES = {'kernel': (16, 48), 'bias': (24,), 'embedding': (6, 36)}
# One array is split along its last axis alone.
SPECS = {'kernel': P('x', 'y'), 'bias': P('y'), 'embedding': P(None, 'x')}

# Of the registry those that another has not: other dtypes, learning rates and inner
# transformations take the same ways.
EVERY_KIND = (
    'diffgrad',
    'diffgrad-dfc3',
    'diffgrad-nesterov-bfloat16',
    'diffgrad-relative',
    'diffgradw',
    'scale_by_diffgrad',
    'with_friction-sgd',
    'diffrgrad',
    'adadiff',
    'scale_by_adadiff',
    'gradient_dropout',
    'learning_rate_dropout',
    'swats',
    'scale_by_gains',
    'correct_by_difference',
    'mars',
    'quantize_state-diffgrad',
)


def transformations():
    """Every public one, and the frictions that look at whole arrays."""
    for name in EVERY_KIND:
        entry = REGISTRY[name]
        transformation = entry.make(**entry.kwargs)
        if name.endswith('dropout'):
            # Alone its state is a key, made of nothing that lies on the mesh.
            transformation = optax.chain(transformation, scale_by_diffgrad())
        yield name, transformation
    for name in ('dfc4', 'dfc5'):
        yield f'diffgrad-{name}', diffgrad(1e-2, friction=name)
    # Neither friction nor state is computed from an array that lies on the mesh.
    yield 'constant friction', with_friction(optax.identity(), lambda g, q: 0.5)


def trees():
    """Parameters and three gradients, unsharded."""
    rng = np.random.default_rng(0)
    return [
        {name: np.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}
        for _ in range(4)
    ]


def spec_at(path, leaf):
    """How an array of the state is to be split: like the parameter of its name."""
    name = next((key.key for key in path[::-1] if hasattr(key, 'key')), None)
    known = name in SPECS and leaf.ndim == len(SHAPES[name])
    return SPECS[name] if known else P()


def follows(tree, mesh):
    """Whether every array is sharded like the parameter at the end of its path."""

    def is_placed(path, leaf):
        found = leaf.sharding
        if isinstance(getattr(found, 'mesh', None), AbstractMesh):
            found = NamedSharding(mesh, found.spec)
        expected = NamedSharding(mesh, spec_at(path, leaf))
        return found.is_equivalent_to(expected, leaf.ndim)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return all(is_placed(path, leaf) for path, leaf in leaves if leaf.ndim)


def run(optimizer, state, put):
    """Three steps of one compiled program, which takes no other shardings than those
    it was compiled for; its last result, and its text."""

    def step(grads, params, state):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, *grads = (put(tree) for tree in trees())
    step = jax.jit(step, donate_argnums=(1, 2)).lower(grads[0], params, state)
    step = step.compile()
    for grad in grads:
        params, state = step(grad, params, state)
    return (params, state), step.as_text()


def numbers(tree):
    """The leaves as NumPy arrays, keys as their data."""

    def number(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [number(leaf) for leaf in jax.tree.leaves(tree)]


def difference(tree, other):
    """The largest difference, relative to the largest number of each array."""
    return max(
        float(np.max(np.abs(np.float64(a) - b)) / max(np.max(np.abs(b)), 1e-30))
        for a, b in zip(numbers(tree), numbers(other), strict=True)
    )


def on_mesh(optimizer, axis_type, directory):
    """What a transformation does where the axes are of `axis_type`."""
    mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(axis_type, axis_type))
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}

    def put(tree):
        return jax.device_put(tree, shardings)

    params = put(trees()[0])
    with jax.set_mesh(mesh):
        state = jax.jit(optimizer.init)(params)
        facts = {
            'eager init': follows(optimizer.init(params), mesh),
            'jitted init': follows(state, mesh),
        }
        if axis_type == AxisType.Explicit:
            # Shardings are types: what is traced is what will be compiled.
            traced = jax.eval_shape(optimizer.update, params, state, params)
            # Gradients that were summed over all devices, state in parts.
            whole = jax.device_put(trees()[0], NamedSharding(mesh, P()))
            _, of_whole = jax.eval_shape(optimizer.update, whole, state, params)
            facts |= {
                'update': follows(traced, mesh),
                'whole gradients': follows(of_whole, mesh),
                'state that is not split': becomes_split(optimizer, params, mesh),
            }
    if axis_type == AxisType.Explicit:
        # Outside of it constants and NumPy's arrays lie on no mesh. They fit too.
        optimizer.update(trees()[1], optimizer.init(params), params)
        return facts
    with jax.set_mesh(mesh):
        last, text = run(optimizer, state, put)
    unsharded, _ = run(optimizer, optimizer.init(trees()[0]), jax.device_put)
    return facts | {
        'update': follows(last, mesh),
        'difference': difference(last, unsharded),
        # The shapes that devices exchange.
        'collectives': re.findall(rf'= (\S.*?) (?:{COLLECTIVES})(?:-start)?\(', text),
        'restored': ocp is None or is_restored(last[1], directory),
    }


def becomes_split(optimizer, grads, mesh):
    """Whether state that is whole everywhere is split by gradients that are, as optax's
    is; an error's words where it does not take them."""
    params = jax.device_put(trees()[0], NamedSharding(mesh, P()))
    try:
        _, state = jax.eval_shape(
            optimizer.update, grads, optimizer.init(params), params
        )
    except TypeError as error:
        return str(error)
    return follows(state, mesh)


def is_restored(state, path):
    """Whether a state comes back from a checkpoint on four of the devices."""
    with ocp.StandardCheckpointer() as checkpoints:
        checkpoints.save(path, state)
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ('x', 'y'))

    def target(path, leaf):
        sharding = NamedSharding(mesh, spec_at(path, leaf))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    with ocp.StandardCheckpointer() as checkpoints:
        back = checkpoints.restore(
            path, jax.tree_util.tree_map_with_path(target, state)
        )
    return follows(back, mesh) and difference(back, state) == 0


def blocks_on_two_devices(axis_type):
    """What is said where a device holds 96 numbers and a block 128, and of 32."""
    mesh = jax.make_mesh((8,), ('x',), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, P(None, 'x'))
    params = {'kernel': jax.device_put(np.ones((8, 768), np.float32), sharding)}
    wide, narrow = (quantize_state(diffgrad(0.1), block_size=n) for n in (128, 32))
    refusals = []
    with jax.set_mesh(mesh):
        for init in (wide.init, jax.jit(wide.init)):
            try:
                init(params)
                refusals.append(None)
            except ValueError as error:
                refusals.append(str(error))
        state = jax.jit(narrow.init)(params)
        update = jax.jit(narrow.update, donate_argnums=1)
        compiled = update.lower(params, state, params).compile().as_text()
        _, state = update(params, state, params)
    mine = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)]
    return {
        'eager': refusals[0],
        'jitted': refusals[1],
        'collectives': re.findall(COLLECTIVES, compiled),
        'bytes on a device': sum(mine),
    }


def inside_manual_axes(axis_type):
    """How unlike the scales are that devices find inside `jax.shard_map`.

    The first axis of the mesh is manual alone, then both, and that of `jax.pmap` is.
    """
    optimizer = quantize_state(diffgrad(0.1), block_size=16, min_size=0)
    mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(axis_type, axis_type))
    grads = np.random.default_rng(0).normal(size=(16, 64)).astype('float32')

    def steps(grads):
        _, state = optimizer.update(grads, optimizer.init(grads))
        return optax.tree.get(state.scales, 'prev_grad')

    differences = []
    with jax.set_mesh(mesh):
        for names, spec in (({'x'}, P('x')), ({'x', 'y'}, P('x', 'y'))):
            split = jax.shard_map(
                steps, axis_names=names, in_specs=spec, out_specs=spec
            )
            put = jax.device_put(grads, NamedSharding(mesh, P('x', 'y')))
            differences.append(difference(jax.jit(split)(put), steps(grads)))
    apart = jax.pmap(steps)(grads.reshape(8, 2, 64)).reshape(16, -1)
    return [*differences, difference(apart, steps(grads))]


def alone(optimizer):
    """How unlike three steps are inside `jax.shard_map`, where each device has
    parameters of its own, to those on each device's part alone."""
    mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
    params, *grads = (tree['kernel'] for tree in trees())

    def steps(params, *grads):
        def step(carry, grad):
            params, state = carry
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(step, carry, jnp.stack(grads))
        return params

    split = jax.shard_map(steps, mesh=mesh, in_specs=P('x'), out_specs=P('x'))
    parts = zip(*(np.split(x, 8) for x in (params, *grads)), strict=True)
    expected = np.concatenate([jax.jit(steps)(*part) for part in parts])
    return difference(jax.jit(split)(params, *grads), expected)


def main(directory, *names):
    """Prints what was found of these transformations, by kind of axes."""
    found = {
        f'blocks, {axis_type.name}': blocks_on_two_devices(axis_type)
        for axis_type in (AxisType.Auto, AxisType.Explicit)
    }
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        found[f'manual, {axis_type.name}'] = inside_manual_axes(axis_type)
    for name, optimizer in transformations():
        if name not in names:
            continue
        found[f'{name}, alone'] = alone(optimizer)
        for axis_type in (AxisType.Auto, AxisType.Explicit):
            facts = on_mesh(optimizer, axis_type, f'{directory}/{name}')
            found[f'{name}, {axis_type.name}'] = facts
    print(json.dumps([jax.device_count(), found]))


if __name__ == '__main__':
    main(*sys.argv[1:])
