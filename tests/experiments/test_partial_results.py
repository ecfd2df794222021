"""experiments/lab/pieces: what an interrupted computation leaves to the next call."""

import numpy as np
import pytest

from experiments.lab import partial_results
from experiments.lab.cli import UserError
from experiments.lab.partial_results import PartialResults
from experiments.landscapes import run

OF = {'steps': 3}


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """As in a clone whose files are those of a commit."""
    monkeypatch.setattr(partial_results, 'commit', lambda: 'c0ffee')


def test_a_piece_is_computed_once(tmp_path):
    folder = tmp_path / 'out' / 'pieces'
    made = PartialResults(folder, OF).get(
        'a', lambda: {'x': np.arange(3.0), 'y': np.eye(2)}
    )
    again = PartialResults(folder, OF).get('a', pytest.fail)
    for of in (made, again):
        np.testing.assert_array_equal(of['x'], np.arange(3.0))
        np.testing.assert_array_equal(of['y'], np.eye(2))
    PartialResults(folder, OF).clear()
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize(
    ('of', 'commit'),
    [({'steps': 4}, 'c0ffee'), (OF, '0ff1ce'), (OF, 'c0ffee-dirty'), (OF, None)],
)
def test_pieces_of_another_computation_are_thrown_away(
    of, commit, tmp_path, monkeypatch
):
    folder = tmp_path / 'pieces'
    PartialResults(folder, OF).get('a', lambda: {'x': np.zeros(1)})
    monkeypatch.setattr(partial_results, 'commit', lambda: commit)
    assert PartialResults(folder, of).get('a', lambda: {'x': np.ones(1)})['x'] == 1


def test_code_that_is_in_no_commit_goes_on_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_results, 'commit', lambda: 'c0ffee-dirty')
    for value in (1, 2):
        made = PartialResults(tmp_path / 'pieces', OF).get(
            'a', lambda v=value: {'x': v}
        )
        assert made['x'] == value


def test_a_piece_is_there_whole_or_not_at_all(tmp_path):
    of = PartialResults(tmp_path / 'pieces', OF)

    class Interrupts:
        def __array__(self, *args, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.get('a', lambda: {'x': np.zeros(1000), 'y': Interrupts()})
    assert of.get('a', lambda: {'x': np.ones(1)}).keys() == {'x'}


@pytest.mark.parametrize('part', [0.0, 0.5, 0.99])
def test_a_piece_that_is_cut_off_is_computed_again(part, tmp_path):
    of = PartialResults(tmp_path / 'pieces', OF)
    of.get('a', lambda: {'x': np.zeros(1000)})
    path = tmp_path / 'pieces' / 'a.npz'
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert of.get('a', lambda: {'x': np.ones(1)})['x'] == 1
    assert of.get('a', pytest.fail)['x'] == 1


def test_a_piece_of_which_a_bit_has_flipped_is_computed_again(tmp_path):
    of = PartialResults(tmp_path / 'pieces', OF)
    of.get('a', lambda: {'x': np.zeros(1000)})
    path = tmp_path / 'pieces' / 'a.npz'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert of.get('a', lambda: {'x': np.ones(1)})['x'] == 1


def test_another_folder_is_refused_and_kept(tmp_path):
    folder = tmp_path / 'pieces'
    folder.mkdir()
    (folder / 'thesis.tex').write_text('all of it')
    with pytest.raises(UserError, match=f'{folder} has no of.json'):
        PartialResults(folder, OF)
    assert (folder / 'thesis.tex').read_text() == 'all of it'


@pytest.mark.slow
def test_an_interrupted_search_of_the_landscapes_goes_on(tmp_path, monkeypatch):
    searched, whole = [], run.run

    def interrupted(*args):
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(args)
        return whole(*args)

    arguments = ['--functions=beale', '--optimizers', 'adam', 'adam-half', 'diffgrad']
    arguments += ['--steps=3', '--starts=2', '--shown=2']
    monkeypatch.setattr(run, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.main([*arguments, f'--out-dir={tmp_path / "a"}'])
    assert {path.name for path in (tmp_path / 'a').iterdir()} == {'searches', 'lock'}
    monkeypatch.setattr(run, 'run', lambda *args: searched.append(args) or whole(*args))
    run.main([*arguments, f'--out-dir={tmp_path / "a"}'])
    assert len(searched) == 3
    run.main([*arguments, f'--out-dir={tmp_path / "b"}'])
    for name in ('landscapes.json', 'landscapes.html'):
        one, two = ((tmp_path / out / name).read_text() for out in 'ab')
        assert one == two

    assert not (tmp_path / 'a' / 'searches').exists()
