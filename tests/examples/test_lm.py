"""examples/lm.py: the text, the mesh, the step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from devices import cpu_devices
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from examples import lm

ROOT = Path(__file__).parents[2]
SMALL = [
    *('--layers', '1', '--width', '16', '--heads', '4'),
    *('--context', '16', '--batch-size', '8', '--sample', '5'),
]


def test_the_embedded_text_is_cut_nine_to_one_without_repeated_paragraphs():
    train, valid = lm.load(None, 128)
    assert len(train) > 300_000
    assert len(train) // len(valid) in (8, 9)
    paragraphs = (bytes(train) + bytes(valid)).split(b'\n\n')
    assert len(set(paragraphs)) == len(paragraphs)


def test_a_text_that_is_missing_or_short_is_refused_in_one_line(tmp_path):
    path = tmp_path / 'text'
    for words in ('must be a readable file', 'must have at least 180 bytes'):
        with pytest.raises(SystemExit, match=words) as refused:
            lm.load(path, 16)
        assert '\n' not in str(refused.value)
        path.write_bytes(b'x' * 179)


def test_the_optimizers_state_is_split_like_its_parameters():
    settings = lm.parse(SMALL)
    with jax.set_mesh(jax.make_mesh((1, 1), ('data', 'model'), (AxisType.Auto,) * 2)):
        _, _, state = lm.start(settings)
        params, opt_state = lm.specs(state)
    is_spec = {'is_leaf': lambda leaf: isinstance(leaf, P)}
    expected = jax.tree.leaves(params, **is_spec)
    assert expected.count(P(None, 'model')) == 4  # embed, qkv, up, head
    assert expected.count(P('model', None)) == 2  # out, down
    of_state = jax.tree.leaves(opt_state, **is_spec)
    for spec in (P(None, 'model'), P('model', None)):
        assert of_state.count(spec) == 3 * expected.count(spec)  # mu, nu, prev_grad


def test_a_run_learns_and_writes_a_sample(capsys):
    with jax.set_mesh(jax.make_mesh((1, 1), ('data', 'model'), (AxisType.Auto,) * 2)):
        losses = lm.run(lm.parse([*SMALL, '--steps', '50', '--learning-rate', '0.01']))
    assert losses[-1] < losses[0] < 5.6  # a uniform guess has log 256 = 5.55
    assert losses[-1] < 4
    assert len(capsys.readouterr().out.splitlines()) > len(losses)


@pytest.mark.slow
def test_a_mesh_gives_the_losses_of_one_device():
    losses = []
    for devices, parallel in ((1, 1), (4, 1), (4, 2), (4, 4)):
        arguments = [*SMALL, '--steps', '10', '--model-parallel', str(parallel)]
        done = subprocess.run(
            [sys.executable, 'examples/lm.py', *arguments],
            cwd=ROOT,
            env=os.environ | cpu_devices(devices) | {'PYTHONPATH': '.'},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = re.findall(r'validation (\S+) nats', done.stdout)
        losses.append(np.array(found, np.float64))
    assert len(losses[0]) == 10
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)
