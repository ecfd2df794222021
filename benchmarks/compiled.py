"""What XLA makes of an update for an NVIDIA H200, on a machine without one.

python -m benchmarks.compiled
python -m benchmarks.compiled --tree array billion

XLA compiles for a described GPU nearly as for one that is there, so what an update will
move can be read before anything is timed: its kernels, their bytes, copies, temporary
memory. Nothing is run, and no time follows. Needs jax[cuda12] and no GPU: `make
compiled` installs it apart. Writes benchmarks/results/compiled/ and prints tables.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks import cli, hlo, results, trees
from benchmarks.gradients import GRADIENTS, factors, materialized
from benchmarks.jax_arms import WITHOUT_TRIALS, make_step, naive_diffgrad
from benchmarks.tables import show
from benchmarks.update import OPTIMIZERS

# Compiles a jitted function for arguments of these shapes.
Compiler = Callable[..., Any]

# XLA's GpuTargetConfigProto.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 150000000000
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H200"
"""
L2_BYTES = int(H200.split('l2_cache_size: ')[1].split()[0])


def h200() -> Compiler:
    """A compiler for one described H200."""
    topology = topologies.get_topology_desc(
        platform='cuda', target_config=H200, topology='1x1x1'
    )
    there = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def compile_for(function: Any, *args: Any) -> Any:
        described = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
            args,
        )
        return function.lower(*described).compile(compiler_options=WITHOUT_TRIALS)

    return compile_for


def measure(
    compile_for: Compiler, optimizers: dict[str, Any], tree: Any
) -> list[dict[str, Any]]:
    """A row for each optimizer and gradient.

    What makes the materialized gradient is compiled alone too and taken off.
    """
    thin = jax.eval_shape(lambda: factors(tree))
    product = jax.jit(materialized, donate_argnums=0, keep_unused=True)
    made = {'materialized': hlo.kernels(compile_for(product, tree, thin).as_text())}
    rows = []
    for name, optimizer in optimizers.items():
        state = jax.eval_shape(optimizer.init, tree)
        for gradient, make in GRADIENTS.items():
            start = time.perf_counter()
            program = compile_for(make_step(optimizer, make), tree, state, thin)
            seconds = time.perf_counter() - start
            kernels = hlo.kernels(program.as_text())
            apart = made.get(gradient, [])
            copies = [kernel for kernel in kernels if kernel.opcode == 'copy']
            rows.append(
                {
                    'name': name,
                    'gradient': gradient,
                    'kernels': len(kernels) - len(apart),
                    'moved_bytes': hlo.moved(kernels) - hlo.moved(apart),
                    'copied_bytes': hlo.moved(copies),
                    'cached_bytes': hlo.cached(kernels, L2_BYTES),
                    'temporary_bytes': program.memory_analysis().temp_size_in_bytes,
                    'state_bytes': trees.nbytes(state),
                    'seconds': seconds,
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = [name for name in trees.TREES if 'gpu' in trees.TREES[name]]
    parser.add_argument('--tree', nargs='+', choices=choices, default=['resnet50'])
    parser.add_argument('--out-dir', type=cli.path)
    args = parser.parse_args(argv)
    out_dir = results.folder(args.out_dir, 'compiled')
    # JAX's plugin asks for a GPU's driver otherwise, and refuses to load without.
    os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'
    jax.config.update('jax_platforms', 'cpu')
    try:
        compile_for = h200()
    except NotImplementedError:
        parser.exit(1, 'no compiler for a GPU is installed: jax[cuda12] has it\n')
    optimizers = {'naive composition': naive_diffgrad(1e-3), **OPTIMIZERS}
    for name in args.tree:
        tree = trees.TREES[name]['gpu']()
        result = {
            'target': 'NVIDIA H200, described',
            'tree': name,
            'arrays': len(jax.tree.leaves(tree)),
            'parameters': trees.count(tree),
            **results.facts(),
            'rows': measure(compile_for, optimizers, tree),
        }
        results.write(out_dir / f'h200-{name}.json', result)
        show(result)


if __name__ == '__main__':
    cli.run(main)
