"""The benchmarks run, and lose nothing when they are interrupted; nothing is timed."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matplotlib.figure import Figure
from problems import resnet50

from benchmarks import (
    compare,
    compiled,
    correctness,
    gpu,
    hlo,
    jax_arms,
    picture,
    records,
    results,
    summary,
    tables,
    throughput,
    timing,
    torch_arms,
    trees,
    update,
)
from benchmarks.cli import UserError
from benchmarks.gpu import Job
from benchmarks.gradients import GRADIENTS, factors, least_moved
from benchmarks.jax_arms import lower_step, naive_diffgrad
from benchmarks.records import by_turns, costs_of, updates_of
from benchmarks.tables import table_of, update_table
from benchmarks.timing import SAMPLES, Running, interleave
from diffgrad_optax import diffgrad
from experiments.cifar.model import ACTIVATIONS, MODELS
from experiments.cifar.training import apply_gradient


@pytest.fixture(autouse=True)
def user_defaults():
    """As users run benchmarks: 64-bit types off, ranks promoted."""
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ('tree', 'arrays', 'numbers'),
    [
        (trees.resnet50, 161, 23_520_842),
        (trees.TREES['array']['cpu'], 1, 2**24),
        (trees.TREES['array']['gpu'], 1, 2**28),
        (trees.TREES['decoder']['cpu'], 1000, 23_801_600),
        (trees.TREES['billion']['gpu'], 145, 1_140_916_224),
    ],
)
def test_trees_have_the_sizes_that_are_claimed(tree, arrays, numbers):
    shapes = tree()
    assert len(jax.tree.leaves(shapes)) == arrays
    assert trees.count(shapes) == numbers
    assert trees.nbytes(trees.cast(shapes, jnp.bfloat16)) == 2 * numbers


@pytest.mark.slow
def test_benchmarks_and_the_packages_tests_know_the_shapes_of_the_network():
    def build():
        return MODELS['resnet50'](
            image_shape=(32, 32, 3),
            classes=10,
            width=64,
            activation=ACTIVATIONS['relu'],
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )

    network = jax.tree.leaves(nnx.as_pure(nnx.state(nnx.eval_shape(build), nnx.Param)))
    expected = sorted(leaf.shape for leaf in network)
    for known in (trees.resnet50(), resnet50()):
        assert sorted(leaf.shape for leaf in known) == expected


def test_naive_composition_is_diffgrad():
    params = jnp.array([0.3, -0.2])
    updates = []
    for optimizer in (naive_diffgrad(0.1), diffgrad(0.1)):
        state = optimizer.init(params)
        for grads in (jnp.array([1.0, 2.0]), jnp.array([1.0, -3.0])):
            update, state = optimizer.update(grads, state, params)
        updates.append(update)
    np.testing.assert_allclose(*updates, rtol=1e-6)


@pytest.mark.slow
def test_materialized_gradient_is_not_fused_with_the_update():
    tree = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    step = lower_step(diffgrad(0.1), GRADIENTS['materialized'], tree, factors(tree))
    entry = step.compile().as_text().split('ENTRY')[1]
    # Something writes an array from the two factors and nothing else.
    product = r'= f32\[256,256\]\S* \S+\((?:[^%)]*%factors_[^%)]*){2}\)'
    assert re.search(product, entry), entry


PROGRAM = """
HloModule m, entry_computation_layout={(f32[4,8]{1,0}, s8[3]{0})->(f32[4,8]{1,0})}

%inside (p: f32[4,8]) -> f32[4,8] {
  ROOT %n = f32[4,8]{1,0} negate(%p)
}

ENTRY %main (x: f32[4,8], y: s8[3]) -> (f32[4,8], pred[], bf16[3]) {
  %x = f32[4,8]{1,0} parameter(0), metadata={op_name="f(%x)"}
  %y = s8[3]{0} parameter(1)
  %fusion.1 = (f32[4,8]{1,0}, /*index=1*/bf16[3]{0}) fusion(%x, /*index=1*/%y), kind=kLoop, calls=%inside
  %gte.0 = f32[4,8]{1,0} get-tuple-element(%fusion.1), index=0
  %gte.1 = bf16[3]{0} get-tuple-element(%fusion.1), index=1
  %bitcast.5 = f32[8,4]{1,0} bitcast(%gte.0)
  %one = f32[] constant(1)
  %copy.2 = f32[4,8]{1,0} copy(%gte.0)
  %compare = pred[] compare(%copy.2, %copy.2), direction=EQ
  ROOT %tuple = (f32[4,8]{1,0}, pred[], bf16[3]{0}) tuple(%copy.2, %compare, %gte.1)
}
"""  # noqa: E501


def test_kernels_of_a_program_and_their_bytes():
    found = hlo.kernels(PROGRAM)
    assert [(k.name, k.opcode, k.read, k.written) for k in found] == [
        ('fusion.1', 'fusion', 131, 134),
        ('copy.2', 'copy', 128, 128),
        ('compare', 'compare', 256, 1),
    ]
    assert hlo.moved(found) == 778


def test_a_cache_holds_the_arrays_that_were_touched_last():
    found = hlo.kernels(PROGRAM.replace('copy(%gte.0)', 'copy(%bitcast.5)'))
    assert not hlo.cached(found, 127)
    # The copy, which is read twice. What it is a copy of was pushed out by six bytes.
    assert hlo.cached(found, 133) == 256
    assert hlo.cached(found, 134) == 384


def test_a_line_that_is_not_understood_is_not_left_out():
    with pytest.raises(ValueError, match='copy of what'):
        hlo.kernels(PROGRAM.replace('copy(%gte.0)', 'copy of what'))


@pytest.mark.parametrize(
    'opcode', ['while', 'conditional', 'call', 'copy-start', 'copy-done']
)
def test_what_is_not_one_kernel_is_not_counted_as_one(opcode):
    with pytest.raises(ValueError, match=f'copy.2 .* {opcode}'):
        hlo.kernels(PROGRAM.replace('copy(', f'{opcode}('))


def test_sizes_in_hlo():
    assert hlo.sizes('f8e4m3fn[5]{0}') == [5]
    assert hlo.sizes('(u32[2,3]{1,0}, c64[2]{0}, pred[7]{0}, s4[3]{0})') == [
        24,
        16,
        7,
        3,
    ]


def rows_for_this_machine():
    """What `compiled` reads, of a compiler that every machine has."""
    tree = jax.ShapeDtypeStruct((256, 128), jnp.float32)
    optimizers = {'optax.adam': optax.adam(0.1), 'naive': naive_diffgrad(0.1)}
    return compiled.measure(
        lambda function, *args: function.lower(*args).compile(), optimizers, tree
    )


@pytest.mark.slow
def test_compiled_updates_are_counted_without_their_gradient():
    rows = {(row['name'], row['gradient']): row for row in rows_for_this_machine()}
    numbers = 256 * 128
    adam = rows['optax.adam', 'elementwise']
    # A loop for each of three arrays: both moments 12 bytes a number, parameters 16.
    assert adam['moved_bytes'] / numbers == pytest.approx(40, abs=0.1)
    assert not adam['copied_bytes']
    # As the fused one, but for the gradient in memory, which each loop reads.
    materialized = rows['optax.adam', 'materialized']
    assert materialized['moved_bytes'] / numbers == pytest.approx(40, abs=0.1)
    assert materialized['kernels'] == adam['kernels']
    assert rows['naive', 'materialized']['copied_bytes'] / numbers == 16


def test_the_table_of_compiled_updates_compares_with_adam():
    result = {
        'target': 'a GPU',
        'tree': 'array',
        'arrays': 1,
        'parameters': 256 * 128,
        'versions': {'jax': '1'},
        'commit': 'c',
        'rows': rows_for_this_machine(),
    }
    lines = table_of(result)(result).splitlines()
    adam = [line for line in lines if line.startswith('| optax.adam')]
    assert [line.split(' | ')[2:5] for line in adam] == [
        ['**40.0**', '28.0', '**1.00**'],
        ['**40.0**', '24.0', '**1.00**'],
    ]
    naive, _ = (line for line in lines if line.startswith('| naive'))
    *_, cached, temporary = naive.removesuffix(' |').split(' | ')
    # All but the first reads of the parameter, of both moments and of the old gradient.
    assert cached == '28.0'
    # The gradient, and the old one that is saved.
    assert temporary == '8.0'


@pytest.mark.slow
def test_a_compiled_tree_leaves_its_record(tmp_path, monkeypatch, capsys):
    def here():
        return lambda function, *args: function.lower(*args).compile()

    monkeypatch.setattr(compiled, 'h200', here)
    monkeypatch.setattr(compiled, 'OPTIMIZERS', {'optax.adam': optax.adam(0.1)})
    monkeypatch.setitem(trees.TREES, 'array', {'gpu': trees.smoke})
    monkeypatch.setenv('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '')
    compiled.main(['--tree', 'array', '--out-dir', str(tmp_path)])
    result = json.loads((tmp_path / 'h200-array.json').read_text())
    assert table_of(result)(result) in capsys.readouterr().out
    assert [row['name'] for row in result['rows']] == [
        *['naive composition'] * 2,
        *['optax.adam'] * 2,
    ]


ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / 'docs' / name for name in ('performance.md', 'performance-details.md')]


@pytest.mark.parametrize(
    ('record', 'count'),
    [
        ('compiled/h200-array', 1),
        ('cpu/update-decoder-float32', 1),
        ('cpu-memory-kept/update-resnet50-float32', 2),
        ('gpu/update-array-float32', 2),
        ('gpu/update-billion-float32', 1),
        ('gpu/update-resnet50-float32', 1),
        ('gpu/throughput', 1),
    ],
)
def test_the_published_tables_of_timings_are_those_of_the_records(record, count):
    result = summary.read(record)
    pages = '\n'.join(page.read_text() for page in PAGES)
    parts = table_of(result)(result).split('\n\n')
    published = [part for part in parts if f'\n\n{part}\n\n' in pages]
    assert [part[:2] for part in published] == ['| '] * count


@pytest.mark.parametrize('draw', summary.TABLES)
def test_the_published_tables_of_several_records_are_those_of_the_records(draw):
    assert any(f'\n\n{draw()}\n\n' in page.read_text() for page in PAGES)


def test_the_best_of_a_column_with_an_arrow_is_bold():
    header = ('name', 'ms ↓', 'images/s ↑', 'plain')
    rows = [('a', '1,000', '2', '1'), ('b', '–', '3', '2'), ('c', '999', '3', '3')]
    assert records.table(header, rows).splitlines()[2:] == [
        '| a | 1,000 | 2 | 1 |',
        '| b | – | **3** | 2 |',
        '| c | **999** | **3** | 3 |',
    ]


def test_the_picture_of_costs_has_a_bar_for_every_optimizer(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig

    def keep(figure, *args, **options):
        drawn.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, 'savefig', keep)
    costs = costs_of(summary.read(picture.RECORD))
    picture.draw(tmp_path / 'costs.png', costs)
    assert (tmp_path / 'costs.png').stat().st_size
    (figure,) = drawn
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    for index, (axes, unit) in enumerate(zip(figure.axes, (1.0, 1e3), strict=True)):
        widths = [bar.get_width() / unit for bar in axes.patches]
        assert dict(zip(names, widths, strict=True)) == pytest.approx(
            {name: values[index] for name, values in costs.items()}
        )


def test_the_times_in_the_readme_are_those_of_the_records():
    root = pathlib.Path(__file__).parents[2]
    results = root / 'benchmarks/results'
    costs = costs_of(json.loads((results / 'cpu-memory-kept/costs.json').read_text()))
    on_gpu = json.loads((results / 'gpu/update-billion-float32.json').read_text())
    updates = updates_of(on_gpu)
    readme = (root / 'README.md').read_text()
    after = readme.split('| H200 (ms) ↓ |')[1]
    rows = [line.split('|') for line in after.splitlines() if line.startswith('| ')]
    assert len(rows) == 4
    for _, name, _, on_cpu, on_h200, _ in rows:
        name = name.strip()
        _, seconds = costs[
            name.replace('diffgrad, 8-bit state', 'quantize_state(diffgrad)')
        ]
        assert on_cpu.strip(' *') == f'{1e3 * seconds:.1f}'
        assert on_h200.strip(' *') == f'{1e3 * updates[name, "materialized"]:.1f}'
    ported = updates['pytorch_optimizer.DiffGrad(foreach=True)', 'in memory']
    assert f'takes {1e3 * ported:.1f} ms' in readme


def test_the_published_table_of_costs_is_that_of_the_record():
    result = summary.read('cpu-memory-kept/costs')
    table = table_of(result)(result)
    page = (ROOT / 'docs/choosing.md').read_text()
    assert table[table.index('| optimizer |') :] in page


def test_without_a_compiler_for_gpus_it_says_what_is_missing(capsys, monkeypatch):
    def refuse():
        raise NotImplementedError

    monkeypatch.setattr(compiled, 'h200', refuse)
    monkeypatch.setenv('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '')
    with pytest.raises(SystemExit) as stopped:
        compiled.main(['--tree', 'array'])
    assert stopped.value.code == 1
    assert 'jax[cuda12]' in capsys.readouterr().err


@pytest.mark.parametrize('rounds', ['0', '-1'])
@pytest.mark.parametrize(
    ('benchmark', 'flag'),
    [
        (compare, '--rounds'),
        (compare, '--compilations'),
        (update, '--rounds'),
        (throughput, '--rounds'),
    ],
)
def test_nothing_is_measured_no_times(benchmark, flag, rounds, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([flag, rounds, '--out-dir', str(tmp_path)])
    assert f'{flag}: {rounds} must be at least 1' in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    'content', [None, '', '{}', '[1]', '{"tree": 1}', '3', '{"seconds": [1]}']
)
def test_what_is_no_result_has_no_table(content, tmp_path):
    path = tmp_path / 'result.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises((FileNotFoundError, UserError), match=r'result\.json'):
        tables.main([str(path)])


def test_interleave_takes_turns_and_keeps_warm_samples():
    calls = []

    def arm(name):
        return lambda: Running(lambda: calls.append(name), lambda: None)

    times = interleave({'a': arm('a'), 'b': arm('b')}, rounds=2, calls=3)
    turn = 2 + 3 * (1 + SAMPLES)
    assert calls == (['a'] * turn + ['b'] * turn) * 2
    assert {name: len(seconds) for name, seconds in times.items()} == {
        'a': 2 * SAMPLES,
        'b': 2 * SAMPLES,
    }


@pytest.mark.parametrize(
    ('seconds', 'repeats', 'in_a_sample'),
    [(2**-6, 1, 20), (2**-6, 10, 2), (2**-6, 20, 1), (2**-3, 1, 4), (1.0, 1, 1)],
)
def test_an_arm_that_repeats_itself_or_takes_long_is_called_less_often(
    seconds, repeats, in_a_sample, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: clock[0])
    made = []

    def call():
        made.append(1)
        clock[0] += seconds

    arms = {'a': lambda: Running(call, lambda: None, repeats=repeats)}
    times = interleave(arms, rounds=1, calls=20)
    # Two to see how long one takes, where a sample has more.
    tried = 2 if repeats < 20 else 0
    assert len(made) == tried + in_a_sample * (1 + SAMPLES)
    assert times == {'a': [seconds / repeats] * SAMPLES}


def test_the_elementwise_gradient_can_be_left_out(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(compare, 'compare', lambda tree, **kwargs: made.append(kwargs))
    monkeypatch.setattr(compare, 'save', lambda *args: None)
    arguments = ['--tree', 'array', '--dtype', 'float32', '--out-dir', str(tmp_path)]
    compare.main(arguments)
    compare.main([*arguments, '--materialized'])
    gradients = [kwargs['gradients'] for kwargs in made]
    assert gradients == [('materialized', 'elementwise'), ('materialized',)]


@pytest.mark.slow
@pytest.mark.parametrize('gradient', GRADIENTS.values())
def test_a_program_of_three_updates_is_three_programs_of_one(gradient):
    optimizer, tree = diffgrad(0.1), trees.smoke()
    thin = factors(tree)

    def after(repeats, calls):
        params = trees.full(tree)
        carry = params, optimizer.init(params)
        for _ in range(calls):
            carry = jax_arms.make_step(optimizer, gradient, repeats)(*carry, thin)
        return carry

    chex.assert_trees_all_close(after(3, 1), after(1, 3), rtol=1e-6)


@pytest.mark.slow
def test_a_program_of_three_updates_makes_three_gradients():
    tree = trees.smoke()
    step = jax_arms.make_step(optax.sgd(0.1), GRADIENTS['materialized'], 3)
    text = step.lower(tree, optax.sgd(0.1).init(tree), factors(tree)).as_text()
    # Behind the barrier of the loop's body the product is no constant of the loop.
    loop, barrier, product = map(
        text.index, ('stablehlo.while', 'optimization_barrier', 'dot_general')
    )
    assert loop < barrier < product


def test_an_update_moves_parameter_gradient_and_state():
    moved = {name: least_moved(4, 12, name) for name in ('in memory', *GRADIENTS)}
    assert moved == {'in memory': 36, 'materialized': 36, 'elementwise': 32}


@pytest.mark.slow
def test_a_copy_is_in_place_and_counts_what_is_read_and_what_is_written(
    tmp_path, monkeypatch
):
    numbers = jax.ShapeDtypeStruct((64,), jnp.float32)
    text = jax_arms.copy.lower(numbers, jnp.ones(())).as_text()
    assert text.count('tf.aliasing_output') == 1
    left_out = [name for name in jax_arms.OPTIMIZERS if name != 'optax.adam']
    monkeypatch.setattr(torch_arms, 'working', lambda tree, say: {})
    options = (1, 1, left_out, ['materialized'], tmp_path)
    compare.run(['array'], ['float32'], *options, smoke=True)
    result = json.loads((tmp_path / 'update-array-float32.json').read_text())
    assert result['copied_bytes'] == 64 * (4 + 4)


def test_the_time_of_a_program_is_that_of_each_of_its_repeats(monkeypatch):
    made = []

    def repeated(step, repeats):
        made.append(repeats)
        return step

    monkeypatch.setattr(jax_arms, 'repeated', repeated)
    optimizer, tree = optax.sgd(0.1), trees.smoke()
    thin = factors(tree)
    program = jax_arms.compile_step(
        optimizer, GRADIENTS['materialized'], tree, thin, 3
    ).program
    update = jax_arms.update_arm(program, optimizer, tree, thin, 3)
    gradient = jax_arms.gradient_arm(tree, thin, 3)
    assert made[-2:] == [3, 3]
    assert [update().repeats, gradient().repeats] == [3, 3]


@pytest.mark.parametrize(
    ('backend', 'size', 'calls'),
    [('cpu', 2**10, 1), ('gpu', 2**10, 100), ('gpu', 2**28, 10)],
)
def test_a_sample_on_a_gpu_is_of_many_updates(backend, size, calls, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    assert jax_arms.calls_of(trees.array(size)) == calls


def test_what_the_benchmarks_do_not_know_is_refused(tmp_path, monkeypatch):
    out_dir = ['--out-dir', str(tmp_path)]
    with pytest.raises(UserError, match=r'--tree billion is not for a cpu'):
        compare.main(['--tree', 'resnet50', 'billion', *out_dir])
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    for main in (compare.main, throughput.main, update.main):
        with pytest.raises(UserError, match='not of tpu'):
            main(out_dir)


@pytest.mark.slow
def test_a_training_step_computes_three_times_what_the_network_does(monkeypatch):
    work = throughput.Workload(2, 1, 4, 'float32')
    monkeypatch.setattr(throughput, 'OPTIMIZERS', {})
    monkeypatch.setattr(throughput, 'working', lambda *_: {})
    measured = throughput.measure(
        throughput.random_images(2), work, rounds=1, say=print
    )
    assert measured['flops_per_image'] == 3 * throughput.forward_flops(4)


@pytest.mark.slow
def test_the_published_tables_of_memory_are_those_of_the_arrays():
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, '-m', 'benchmarks.memory']
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    tables = [part for part in told.stdout.split('\n\n') if part.startswith('| ')]
    page = (root / 'docs/scale.md').read_text()
    assert len(tables) == 2
    for table in tables:
        assert table.strip() in page


def test_missing_package_is_left_out_and_said(monkeypatch):
    # All of it, where there is one, before a part is taken away.
    with contextlib.suppress(ImportError):
        importlib.import_module('torch')
    monkeypatch.setitem(torch_arms.OPTIMIZERS, 'other', ('no_such_module', 'X', {}))
    monkeypatch.setitem(sys.modules, 'torch.optim', None)
    said = []
    assert 'other' not in torch_arms.installed(said.append)
    assert any('no_such_module' in line for line in said)


def test_what_fails_in_pytorch_is_left_out_and_said(monkeypatch):
    def state_bytes(make, tree):
        return make(tree)

    makes = {'good': lambda tree: 8, 'bad': lambda tree: 1 // 0}
    monkeypatch.setattr(torch_arms, 'installed', lambda say: makes)
    monkeypatch.setattr(torch_arms, 'state_bytes', state_bytes)
    said = []
    assert torch_arms.working(None, said.append) == {'good': (makes['good'], 8)}
    assert len(said) == 1
    assert said[0].startswith('left out bad: ZeroDivisionError')


@pytest.mark.slow
def test_the_second_call_of_a_training_step_compiles_nothing():
    work = throughput.Workload(2, 1, 2, 'float32')
    of = throughput.example(throughput.random_images(2), work)
    for optimizer in throughput.OPTIMIZERS.values():
        running = throughput.jax_arm(of, optimizer)()
        running.call()
        compiled = apply_gradient._cache_size()
        running.call()
        assert apply_gradient._cache_size() == compiled


@pytest.mark.slow
def test_a_training_step_that_fails_leaves_the_others():
    def fail():
        raise ZeroDivisionError

    def nothing():
        return None

    said = []
    arms = throughput.working(
        {
            'cannot be made': fail,
            'works': lambda: lambda: Running(nothing, nothing),
            'cannot be called': lambda: lambda: Running(fail, nothing),
            'does not end': lambda: lambda: Running(nothing, fail),
        },
        said.append,
    )
    assert list(arms) == ['works']
    assert [line.split(':')[0] for line in said] == [
        f'left out {name}'
        for name in ('cannot be made', 'cannot be called', 'does not end')
    ]


@pytest.mark.slow
def test_the_step_in_one_graph_is_timed_beside_the_examples_own(monkeypatch):
    work = throughput.Workload(2, 2, 2, 'float32')
    monkeypatch.setattr(throughput, 'torch_arm', lambda *_: None)
    monkeypatch.setattr(throughput, 'interleave', lambda arms, **_: arms)
    said = []
    arms = throughput.measure(
        throughput.random_images(4), work, one_graph=True, rounds=1, say=said.append
    )['seconds']
    assert list(arms) == [
        'experiments/cifar, diffgrad',
        'experiments/cifar, optax.adam',
        'experiments/cifar, diffgrad, one graph',
    ]
    assert len(said) == 1 and said[0].startswith('left out PyTorch')
    states = []
    for name in (
        'experiments/cifar, diffgrad',
        'experiments/cifar, diffgrad, one graph',
    ):
        running = arms[name]()
        running.call()
        states.append(running.wait()[0])
    chex.assert_trees_all_equal(*states)


@pytest.mark.slow
def test_the_step_in_one_graph_is_compiled_with_its_options(monkeypatch):
    monkeypatch.setattr(throughput, 'ONE_GRAPH', {'xla_no_such_option': 1})
    work = throughput.Workload(2, 2, 2, 'float32')
    of = throughput.example(throughput.random_images(4), work)
    with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
        throughput.one_graph_arm(of, throughput.OPTIMIZERS['diffgrad'])


def test_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / 'result.json'
    with pytest.raises(TypeError):
        results.write(path, {'a': object()})
    assert list(tmp_path.iterdir()) == []
    results.write(path, {'a': 1})
    assert [file.name for file in tmp_path.iterdir()] == ['result.json']


PROGRAMS = {p.__name__: p.main for p in (compare, correctness, gpu, throughput, update)}


@pytest.mark.parametrize('main', PROGRAMS.values(), ids=PROGRAMS)
def test_smoke_is_kept_out_of_the_results(main, tmp_path):
    folders = [], ['--out-dir', str(results.RESULTS)], ['--out-dir', str(tmp_path)]
    (tmp_path / 'costs.json').write_text('{}')
    for out_dir in folders:
        with pytest.raises(UserError, match='--smoke needs an'):
            main(['--smoke', *out_dir])
    assert [file.name for file in tmp_path.iterdir()] == ['costs.json']


@pytest.mark.parametrize('main', PROGRAMS.values(), ids=PROGRAMS)
def test_what_smoke_left_is_taken_for_no_result(main, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'has_gpu', lambda: True)
    results.folder(tmp_path, 'cpu', smoke=True)
    with pytest.raises(UserError, match='what --smoke left'):
        main(['--out-dir', str(tmp_path)])


@pytest.mark.parametrize('main', PROGRAMS.values(), ids=PROGRAMS)
def test_nothing_is_measured_that_could_not_be_written(main, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, 'has_gpu', lambda: True)
    monkeypatch.setattr(results, 'facts', lambda: pytest.fail('measured'))
    (tmp_path / 'file').touch()
    # The last is a folder in which not even root can make a file.
    for out_dir in (tmp_path / 'file', tmp_path / 'file/inside', '/proc/self'):
        with pytest.raises(OSError, match=r'file|/proc'):
            main(['--out-dir', str(out_dir)])


def result_table(path):
    return update_table(json.loads(path.read_text()))


@pytest.mark.slow
def test_smoke_run_leaves_a_result_and_a_second_call_nothing_to_do(tmp_path, capfd):
    name = 'update-resnet50-bfloat16'
    arguments = ['--smoke', '--out-dir', str(tmp_path), name]
    with pytest.raises(SystemExit) as finished:
        gpu.main(arguments)
    assert finished.value.code == 0, capfd.readouterr()
    path = tmp_path / f'{name}.json'
    assert {file.name for file in tmp_path.iterdir()} == {path.name, results.SMOKE}
    # Parameter, gradient and three arrays of state at two bytes: nine moves.
    assert '\n| diffgrad | ' in result_table(path)
    arms = json.loads(path.read_text())['arms']
    (bytes_moved,) = (
        arm['bytes']
        for arm in arms
        if (arm['name'], arm['gradient']) == ('diffgrad', 'materialized')
    )
    assert bytes_moved == pytest.approx(18, abs=0.2)
    written = path.stat().st_mtime_ns
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert path.stat().st_mtime_ns == written
    said = capfd.readouterr().out
    assert f'{name}: is there already, {path}' in said
    assert 'left: nothing' in said


@pytest.mark.slow
def test_the_costs_of_optimizers_leave_their_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        update,
        'OPTIMIZERS',
        {'optax.adam': optax.adam(0.1), 'diffgrad': diffgrad(0.1)},
    )
    made = []

    def compile_step(optimizer, gradient, *arguments):
        made.append(gradient)
        return jax_arms.compile_step(optimizer, gradient, *arguments)

    monkeypatch.setattr(update, 'compile_step', compile_step)
    update.main(['--smoke', '--out-dir', str(tmp_path)])
    assert made == 2 * [GRADIENTS['materialized']]
    result = json.loads((tmp_path / 'costs.json').read_text())
    assert table_of(result)(result) in capsys.readouterr().out
    assert {'device', 'versions', 'commit'} <= result.keys()
    assert [row['name'] for row in result['optimizers']] == ['optax.adam', 'diffgrad']
    for seconds in (result['gradient_seconds'], result['optimizers'][1]['seconds']):
        assert len(seconds) == SAMPLES
    # 104 numbers, three arrays of state for each, and the counter of steps.
    assert result['optimizers'][1]['state_bytes'] == 3 * 4 * 104 + 4


def test_the_table_of_costs_subtracts_the_gradient():
    def row(name, milliseconds):
        return {
            'name': name,
            'state_bytes': 80,
            'trace_seconds': 2.4,
            'compile_seconds': 4.8,
            'seconds': [1e-3 * milliseconds] * 3,
        }

    result = {
        'device': 'a CPU',
        'versions': {'jax': '1'},
        'commit': 'c',
        'malloc': {'MALLOC_ARENA_MAX': '1'},
        'arrays': 1,
        'parameters': 10,
        'gradient_seconds': [0.019, 0.02, 0.9],
        'optimizers': [row('optax.adam', 60), row('diffgrad', 120)],
    }
    title, *_, adam, ours = table_of(result)(result).splitlines()
    assert title.endswith('a CPU, jax 1, torch missing, commit c, MALLOC_ARENA_MAX=1')
    assert adam == '| optax.adam | **8.0** | **40.0** | **1.00** | **7** |'
    assert ours == '| diffgrad | **8.0** | 100.0 | 2.50 | **7** |'


def test_compilations_are_compared_turn_by_turn():
    ours, other = {'seconds': [2.0, 9.0, 8.0]}, {'seconds': [1.0, 3.0, 8.0]}
    assert by_turns(ours, other, 'seconds') == '2.00'


def test_without_a_gpu_it_refuses(monkeypatch):
    monkeypatch.setattr(gpu, 'has_gpu', lambda: False)
    with pytest.raises(SystemExit, match='sees no GPU'):
        gpu.main([])


@pytest.mark.slow
def test_no_job_imports_what_only_downloads_need():
    absent = dict.fromkeys(('pooch', 'requests'))
    modules = sorted({job.command[0] for job in gpu.JOBS})
    code = f'import importlib, sys; sys.modules.update({absent})'
    code += ''.join(f'; importlib.import_module({name!r})' for name in modules)
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.fixture
def two_tests(tmp_path, monkeypatch):
    """A file of tests, one of which fails, in the place of the optimizers'."""
    (tmp_path / 'test_two.py').write_text(
        'def test_good():\n    pass\n\n'
        'def test_bad():\n    assert 1 == 2, "an error\\nof two lines"\n'
    )
    monkeypatch.setattr(correctness, 'TESTS', tmp_path)
    monkeypatch.setattr(correctness, 'FILES', ('test_two.py',))
    monkeypatch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'true')
    return tmp_path


@pytest.mark.slow
def test_tests_that_fail_on_a_device_are_part_of_its_result(two_tests, capsys):
    correctness.main(['--workers', '1', '--out-dir', str(two_tests / 'out')])
    result = json.loads((two_tests / 'out/correctness.json').read_text())
    (file,) = result['passed']
    assert file.endswith('test_two.py')
    assert result['passed'] == {file: 1}
    assert result['failed'] == {f'{file}::test_bad': 'AssertionError: an error'}
    table = capsys.readouterr().out
    assert f'| {file} | 1 | 1 |' in table
    assert f'- `{file}::test_bad`: AssertionError: an error' in table


@pytest.mark.slow
def test_a_plugin_that_bears_no_workers_is_left_out(two_tests, monkeypatch):
    code = 'def pytest_configure():\n    raise RuntimeWarning\n'
    (two_tests / 'benchmark.py').write_text(code)
    monkeypatch.syspath_prepend(two_tests)
    monkeypatch.setenv('PYTEST_PLUGINS', 'benchmark')
    correctness.main(['--workers', '1', '--out-dir', str(two_tests / 'out')])
    assert (two_tests / 'out/correctness.json').exists()


def test_tests_that_could_not_be_run_leave_no_result(two_tests, monkeypatch):
    started = []

    def default_backend():
        started.append(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])
        return 'cpu'

    monkeypatch.setattr(jax, 'default_backend', default_backend)
    (two_tests / 'test_two.py').write_text('import no_such_module')
    with pytest.raises(SystemExit, match='no_such_module'):
        correctness.main(['--workers', '1', '--out-dir', str(two_tests / 'out')])
    assert not [*(two_tests / 'out').iterdir()]
    # JAX, which starts here, takes no memory of a GPU that the workers need.
    assert set(started) == {'false'}


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Modules that jobs run, and where their results go."""
    (tmp_path / 'good.py').write_text(
        'import json, sys, pathlib\n'
        'path = pathlib.Path(sys.argv[sys.argv.index("--out-dir") + 1])\n'
        'path.mkdir(parents=True, exist_ok=True)\n'
        '(path / (sys.argv[1] + ".json")).write_text(json.dumps(sys.argv))\n'
    )
    (tmp_path / 'bad.py').write_text('raise RuntimeError("broken on purpose")\n')
    (tmp_path / 'slow.py').write_text('import time\ntime.sleep(60)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return tmp_path / 'out'


def test_failed_job_is_told_stops_nothing_and_is_tried_again(scripts, capfd):
    jobs = [Job('b', ('bad',), 0.0), Job('g', ('good', 'g'), 0.0)]
    assert gpu.run_jobs(jobs, scripts, minutes=1) == jobs[:1]
    said = capfd.readouterr()
    assert 'broken on purpose' in said.err
    assert 'b: failed with status 1' in said.out
    assert 'left: b' in said.out
    assert [file.name for file in scripts.iterdir()] == ['g.json']
    assert gpu.run_jobs(jobs, scripts, minutes=1) == jobs[:1]
    said = capfd.readouterr().out
    assert '## b' in said
    assert '## g' not in said
    mended = [Job('b', ('good', 'b'), 0.0)]
    assert gpu.run_jobs(mended, scripts, minutes=1) == []


def test_half_a_result_is_none(scripts):
    scripts.mkdir()
    (scripts / 'g.json').write_text('{"seconds": [1')
    assert gpu.run_jobs([Job('g', ('good', 'g'), 0.0)], scripts, minutes=1) == []
    assert json.loads((scripts / 'g.json').read_text())[1] == 'g'


def test_job_is_stopped_at_the_deadline(scripts, capfd):
    start = time.monotonic()
    jobs = [Job('s', ('slow',), 0.0)]
    assert gpu.run_jobs(jobs, scripts, minutes=0.01) == jobs
    assert time.monotonic() - start < 30
    assert 's: stopped at the deadline' in capfd.readouterr().out


def test_job_ends_with_a_call_that_is_told_to_end(scripts):
    (scripts.parent / 'named.py').write_text(
        'import os, time\nprint(os.getpid())\ntime.sleep(60)\n'
    )
    code = 'from benchmarks.gpu import run; run(["named"], timeout=60)'
    command = [sys.executable, '-c', code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as call:
        job = int(call.stdout.readline())
        assert os.getsid(job) == os.getsid(call.pid)
        call.terminate()
        assert call.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(job, 0)


def test_job_that_does_not_fit_is_not_started_and_a_shorter_one_is(scripts, capfd):
    jobs = [Job('long', ('good', 'long'), 5.0), Job('short', ('good', 'short'), 0.5)]
    assert gpu.run_jobs(jobs, scripts, minutes=1) == jobs[:1]
    assert 'long: no time left' in capfd.readouterr().out


def test_job_that_is_named_is_begun_however_little_time_is_left(scripts, monkeypatch):
    monkeypatch.setattr(gpu, 'has_gpu', lambda: True)
    monkeypatch.setattr(gpu, 'JOBS', (Job('long', ('good', 'long'), 5.0),))
    arguments = ['--minutes', '1', '--out-dir', str(scripts)]
    for named, left in ([], 1), (['long'], 0):
        with pytest.raises(SystemExit) as finished:
            gpu.main([*arguments, *named])
        assert finished.value.code == left


def test_only_jobs_that_read_images_are_told_where_they_are(scripts, tmp_path):
    jobs = [Job('a', ('good', 'a'), 0.0), Job('b', ('good', 'b'), 0.0, True)]
    gpu.run_jobs(jobs, scripts, minutes=1, data_dir=tmp_path)
    told = [(scripts / f'{job.name}.json').read_text() for job in jobs]
    assert ['--data-dir' in arguments for arguments in told] == [False, True]


def test_only_jobs_that_go_on_are_told_how_long(scripts):
    jobs = [Job('a', ('good', 'a'), 0.0), Job('b', ('good', 'b'), 0.0, goes_on=True)]
    gpu.run_jobs(jobs, scripts, minutes=1)
    told = [json.loads(gpu.result_path(job, scripts).read_text()) for job in jobs]
    assert '--minutes' not in told[0]
    assert 0.5 < float(told[1][told[1].index('--minutes') + 1]) <= 1.0


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='PyTorch is in the extra bench')


def test_torch_network_has_the_size_and_the_operations_that_are_counted(torch):
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_resnet import ResNet50

    with torch.device('meta'):
        network = ResNet50(10, 64)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(2, 3, 32, 32))
    assert sum(param.numel() for param in network.parameters()) == 23_520_842
    assert counter.get_total_flops() == 2 * throughput.forward_flops(64)


def test_torch_network_has_the_logits_of_the_example(torch):
    from benchmarks.torch_resnet import ResNet50

    theirs = ResNet50(10, 4).eval()
    ours = MODELS['resnet50'](
        image_shape=(32, 32, 3),
        classes=10,
        width=4,
        activation=ACTIVATIONS['relu'],
        dtype=jnp.float32,
        rngs=nnx.Rngs(jax.random.key(0, impl='rbg')),
    )
    ours.eval()
    copy_weights(ours, theirs, torch)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype('f')
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    logits = nnx.jit(lambda model, x: model(x))(ours, images)
    assert np.ptp(logits) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def copy_weights(ours, theirs, torch):
    """From the example's network to PyTorch's; every weight of it is set."""

    def convolution(layer):
        kernel = np.asarray(getattr(layer, 'linear', layer).kernel[...])
        if kernel.ndim == 2:
            kernel = kernel[None, None]
        return {'weight': kernel.transpose(3, 2, 0, 1)}

    def norm(layer):
        return {
            'weight': layer.scale[...],
            'bias': layer.bias[...],
            'running_mean': layer.mean[...],
            'running_var': layer.var[...],
            'num_batches_tracked': 0,
        }

    layers = {'conv': convolution(ours.conv), 'norm': norm(ours.norm)}
    for index, block in enumerate(ours.blocks):
        for i in (1, 2, 3):
            conv, bn = getattr(block, f'conv{i}'), getattr(block, f'norm{i}')
            layers[f'blocks.{index}.conv{i}'] = convolution(conv)
            layers[f'blocks.{index}.norm{i}'] = norm(bn)
        if block.shortcut.projects:
            layers[f'blocks.{index}.conv'] = convolution(block.shortcut.conv)
            layers[f'blocks.{index}.norm'] = norm(block.shortcut.norm)
    layers['head'] = {
        'weight': np.asarray(ours.head.kernel[...]).T,
        'bias': ours.head.bias[...],
    }
    theirs.load_state_dict(
        {
            f'{layer}.{name}': torch.tensor(np.asarray(value))
            for layer, values in layers.items()
            for name, value in values.items()
        }
    )
