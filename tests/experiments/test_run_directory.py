"""The run directory: nothing is lost or doubled, and nothing damaged is believed."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import kills
import numpy as np
import pytest

from experiments.lab import run_directory as runs
from experiments.lab.checkpoints import what_is_wrong
from experiments.lab.cli import UserError
from experiments.lab.divergence import NonFiniteError
from experiments.lab.run_directory import RunDirectory


def opened(path, **changes):
    arguments = {'settings': {'seed': 0}, 'facts': {}, 'keys': {'step'}, 'resume': True}
    return RunDirectory(path, **arguments | changes)


def state_after(step):
    return {
        'weights': jnp.arange(300, dtype=jnp.float32) * step,
        'key': jax.random.key(step),
        'step': jnp.int32(step),
    }


def go_on(run, steps):
    """Two lines and a checkpoint for each of `steps`."""
    for step in steps:
        run.log({'step': step, 'half': 1})
        run.log({'step': step, 'half': 2})
        run.save(state_after(step), step)


@pytest.fixture
def path(tmp_path):
    """A run of three checkpoints, of which two are kept."""
    with opened(tmp_path / 'run') as run:
        run.restore(state_after(0))
        go_on(run, (10, 20, 30))
    return tmp_path / 'run'


def checkpoint(path, step):
    return path / 'checkpoints' / str(step)


def contents(path):
    return {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob('*')
        if file.is_file()
    }


def assert_goes_on_from(path, step):
    """Restores, and finds the state and the lines of `step`; then goes on."""
    with opened(path) as run:
        state, lines = run.restore(state_after(0))
        np.testing.assert_array_equal(state['weights'], state_after(step)['weights'])
        assert state['key'] == state_after(step)['key']
        assert [line['step'] for line in lines[1::2]] == list(range(10, step + 1, 10))
        go_on(run, (step + 10,))
    with opened(path) as run:
        state, lines = run.restore(state_after(0))
    assert int(state['step']) == step + 10
    assert len(lines) == (step + 10) // 5
    written = (path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in written] == lines


def largest_file(place):
    return max(
        (p for p in place.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size
    )


def flip_a_bit(file, place=-1):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_run_goes_on_from_its_newest_state_and_keeps_two(path):
    assert sorted(p.name for p in (path / 'checkpoints').iterdir()) == ['20', '30']
    assert_goes_on_from(path, 30)


def truncated(place):
    file = largest_file(place)
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    'truncated': truncated,
    'a bit flipped': lambda place: flip_a_bit(largest_file(place), 100),
    'a file lost': lambda place: largest_file(place).unlink(),
    'checksums lost': lambda place: (place / 'checksums.json').unlink(),
    'checksums cut': lambda place: (place / 'checksums.json').write_text('{"note'),
    'checksums of nothing': lambda place: (place / 'checksums.json').write_text('{}'),
    'a note of other lines': lambda place: (place / 'note.json').write_text(
        '{"lines": 4}'
    ),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(path, capsys, damage):
    DAMAGES[damage](checkpoint(path, 30))
    before = contents(checkpoint(path, 30))
    dropped = (path / 'metrics.jsonl').read_text().splitlines(True)[4:]
    assert_goes_on_from(path, 20)
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert 'checkpoint 30 was damaged (' in said
    assert contents(path / 'damaged' / '30') == before
    assert (path / 'dropped.jsonl').read_text() == ''.join(dropped)


def test_one_flipped_bit_is_noticed_wherever_it_is(path):
    place, generator = checkpoint(path, 30), random.Random(0)
    assert what_is_wrong(place) == ''
    files = [file for file in place.rglob('*') if file.is_file()]
    # Times and the name of the format, without which restoring does as well.
    unused = {'_CHECKPOINT_METADATA', 'commit_success.txt'}
    assert len(files) > 8
    for file in files:
        if file.name in unused:
            continue
        content = file.read_bytes()
        # A flipped space in a list of checksums changes no checksum.
        places = [i for i, byte in enumerate(content) if byte != ord(' ')]
        for index in generator.sample(places, min(20, len(places))):
            flip_a_bit(file, index)
            assert what_is_wrong(place), (file, index)
            file.write_bytes(content)
    assert what_is_wrong(place) == ''


def test_a_second_damaged_checkpoint_does_not_replace_the_first(path):
    for _ in range(2):
        flip_a_bit(largest_file(checkpoint(path, 30)), 100)
        assert_goes_on_from(path, 20)
    assert sorted(p.name for p in (path / 'damaged').iterdir()) == ['30', '30+']


def test_if_all_checkpoints_are_damaged_they_are_named_and_nothing_is_touched(path):
    for step in (20, 30):
        flip_a_bit(largest_file(checkpoint(path, step)), 100)
    before = contents(path)
    with (
        pytest.raises(UserError, match=r'30 \(.* has changed\), 20 \(') as refusal,
        opened(path) as run,
    ):
        run.restore(state_after(0))
    assert '\n' not in str(refusal.value)
    assert contents(path) == before


def test_a_state_of_another_structure_is_refused_and_nothing_is_touched(path):
    before = contents(path)
    with (
        pytest.raises(UserError, match='does not fit this program'),
        opened(path) as run,
    ):
        run.restore({'other': jnp.zeros(3)})
    assert contents(path) == before


def test_a_half_written_line_is_no_line(path):
    metrics = path / 'metrics.jsonl'
    metrics.write_text(metrics.read_text() + '{"step": 3')
    assert_goes_on_from(path, 30)


@pytest.mark.parametrize(
    ('line', 'said'), [('{"half": 1}', 'a line has no step'), ('3', 'no object')]
)
def test_a_line_of_something_else_is_refused_and_kept(path, line, said):
    metrics = path / 'metrics.jsonl'
    _, *others = metrics.read_text().splitlines()
    metrics.write_text('\n'.join([line, *others, '']))
    before = contents(path)
    with (
        pytest.raises(UserError, match=rf'metrics\.jsonl is damaged \(.*{said}'),
        opened(path) as run,
    ):
        run.restore(state_after(0))
    assert contents(path) == before


def test_an_unfinished_checkpoint_counts_for_nothing_and_goes(path):
    unfinished = path / 'checkpoints' / '40.orbax-checkpoint-tmp'
    checkpoint(path, 30).rename(unfinished)
    assert_goes_on_from(path, 20)
    assert not unfinished.exists()


def test_a_checkpoint_half_deleted_is_not_gone_back_to(path, monkeypatch):
    rmtree = shutil.rmtree
    monkeypatch.setattr(
        'experiments.lab.checkpoints.shutil.rmtree',
        lambda place, **how: place.name.isdecimal() or rmtree(place, **how),
    )
    assert_goes_on_from(path, 30)
    monkeypatch.undo()
    assert not (checkpoint(path, 20) / 'checksums.json').exists()
    flip_a_bit(largest_file(checkpoint(path, 40)), 100)
    flip_a_bit(largest_file(checkpoint(path, 30)), 100)
    with pytest.raises(UserError, match=r'20 \(it has no checksums\)'):
        opened(path).__enter__().restore(state_after(0))


def test_two_runs_in_one_directory_are_refused_until_the_first_ends(path):
    with opened(path):
        before = contents(path)
        with (
            pytest.raises(UserError, match='in use by a run that has not'),
            opened(path),
        ):
            pass
        assert contents(path) == before
    assert_goes_on_from(path, 30)


def test_a_refused_run_does_not_hold_the_directory(path):
    with pytest.raises(UserError, match='seed'), opened(path, settings={'seed': 1}):
        pass
    assert_goes_on_from(path, 30)


@pytest.mark.parametrize('value', [jnp.inf, jnp.nan])
def test_a_state_that_is_not_finite_is_never_saved(path, value):
    with opened(path) as run:
        run.restore(state_after(0))
        with pytest.raises(NonFiniteError, match='checkpoint 40 would hold'):
            run.save(state_after(1) | {'mean': jnp.array([0, value])}, 40)
    assert_goes_on_from(path, 30)


@pytest.fixture
def small_files():
    """No file may grow past 100 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# What orbax had begun to write beside it finds its event loop closed.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('ends', ['at the end', 'at the next save'])
def test_a_full_disk_stops_the_run_and_harms_no_checkpoint(
    path, small_files, caplog, ends
):
    weights = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    with (
        pytest.raises(
            UserError,
            match=r'/40 could not be written \(File too large\): make room .* goes on '
            r'from .*/30',
        ) as refusal,
        opened(path) as run,
    ):
        run.restore(state_after(0))
        run.log({'step': 40})
        run.save({'weights': weights}, 40)
        if ends == 'at the next save':
            run.save(state_after(50), 50)
    assert '\n' not in str(refusal.value)
    assert not caplog.text
    assert_goes_on_from(path, 30)


def test_a_folder_that_takes_no_checkpoint_is_noticed_before_training(tmp_path):
    said = r'no checkpoint can be written into .*/checkpoints \(File too large\)'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    threads = set(threading.enumerate())
    with opened(tmp_path / 'run') as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(UserError, match=said) as refusal:
                run.restore(state_after(0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list((run.path / 'checkpoints').iterdir())
    assert '\n' not in str(refusal.value)
    # None that the process would wait for when it ends.
    assert all(t.daemon for t in threading.enumerate() if t not in threads)


def test_nothing_is_left_of_the_look_whether_checkpoints_can_be_written(path):
    before = contents(path)
    (checkpoint(path, 'probe') / 'of a run that was killed').mkdir(parents=True)
    with opened(path) as run:
        run.restore(state_after(0))
        assert contents(path) == before
        assert not checkpoint(path, 'probe').exists()


def test_metrics_that_cannot_be_written_stop_the_run_with_one_line(path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(
            UserError, match=r'No space left on device.*make room.*from .*/30'
        ),
        opened(path) as run,
    ):
        run.restore(state_after(0))
        monkeypatch.setattr(runs.os, 'fsync', full)
        run.log({'step': 40})
    monkeypatch.undo()
    assert_goes_on_from(path, 30)


DEATHS = (
    ('experiments.cifar.train', 'init_state', 1),  # at the start
    ('experiments.cifar.epochs', 'train_steps', 7),  # in a step of the second epoch
    (
        'experiments.lab.run_directory',
        'os.fsync',
        2,
    ),  # of a line, after the first
    ('experiments.lab.checkpoints', 'Checkpoints._seal', 2),  # before the checksums
    ('experiments.lab.checkpoints', 'checksum', 30),  # some are taken
    ('experiments.lab.checkpoints', 'shutil.rmtree', 2),  # of the oldest
)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_bits(tmp_path):
    cache, generator = tmp_path / 'cache', random.Random(0)
    whole, killed = (
        kills.small(tmp_path / name, epochs=20) for name in ('whole', 'killed')
    )
    kills.finish(whole, cache)
    for death in DEATHS:
        process = kills.start(killed, cache, dies_in=death)
        process.join()
        assert process.exitcode == -signal.SIGKILL, death
        kills.assert_nothing_half_believed(killed.out_dir)
    assert kills.kill_at_random(killed, cache, generator)
    assert len(kills.metrics(killed.out_dir)) < 20
    kills.finish(killed, cache)
    kills.assert_same_result(killed.out_dir, whole.out_dir)
