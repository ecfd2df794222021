"""A file of results: runs are added once each, and no half line is believed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.cifar.config import Config as CifarConfig
from experiments.lab.cli import UserError
from experiments.lab.divergence import DivergedError
from experiments.lab.record import Record, run_missing
from experiments.lm.config import Config as LmConfig


@dataclass(frozen=True)
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (1, 2)
    out_dir: Path | None = None
    resume: bool = False

    def settings(self):
        return {'seed': self.seed, 'sizes': self.sizes}


CONFIGS = {f'seed{seed}': Config(seed) for seed in range(3)}


def train(config):
    """Leaves a run's folder as a real run would; fails for 13, diverges for 99."""
    if config.seed == 13:
        raise UserError('seed 13 does not train')
    assert config.resume
    config.out_dir.mkdir()
    told = {'settings': config.settings() | {'data_checksum': 'x'}, 'devices': ['cpu']}
    (config.out_dir / 'config.json').write_text(json.dumps(told))
    if config.seed == 99:
        raise DivergedError('the loss at step 3 is nan', 'try a smaller rate')
    return SimpleNamespace(metrics=[{'loss': config.seed, 'seconds': 0.5}] * 2)


def run(tmp_path, configs, **arguments):
    said = []
    record = run_missing(
        tmp_path / 'results.jsonl',
        configs,
        train,
        checksum=lambda config: 'x',
        runs_dir=tmp_path / 'runs',
        say=said.append,
        **arguments,
    )
    return record, said


def test_each_run_leaves_a_line_and_no_folder(tmp_path):
    record, said = run(tmp_path, CONFIGS)
    assert Record(record.path).runs == record.runs
    assert [line['settings']['seed'] for line in record.runs] == [0, 1, 2]
    assert all(line['seconds'] == 1.0 and 'commit' in line for line in record.runs)
    assert [file.name for file in (tmp_path / 'runs').iterdir()] == ['lock']
    assert said[-1].split() == ['3', 'of', '3', 'seed2', '1', 's']


def test_what_has_a_line_is_not_run_again(tmp_path):
    run(tmp_path, {'seed1': CONFIGS['seed1']})
    record, said = run(tmp_path, CONFIGS)
    assert [line['settings']['seed'] for line in record.runs] == [1, 0, 2]
    assert len(said) == 2
    assert run(tmp_path, CONFIGS)[1] == []


def test_a_failing_run_keeps_the_lines_before_it(tmp_path):
    with pytest.raises(UserError, match='13'):
        run(tmp_path, {'seed0': Config(0), 'seed13': Config(13)})
    assert len(Record(tmp_path / 'results.jsonl').runs) == 1


def test_a_run_that_diverges_has_a_line_and_keeps_no_other_from_being_made(tmp_path):
    configs = {'seed99': Config(99), 'seed0': Config(0)}
    record, said = run(tmp_path, configs)
    assert Record(record.path).runs == record.runs
    diverged, ended = record.runs
    assert diverged == {
        'settings': ended['settings'] | {'seed': 99},
        'devices': ['cpu'],
        'commit': ended['commit'],
        'seconds': 0,
        'metrics': [],
        'diverged': 'the loss at step 3 is nan',
    }
    assert 'diverged' not in ended
    assert said[0] == '   1 of 2  seed99  diverged: the loss at step 3 is nan'
    assert [file.name for file in (tmp_path / 'runs').iterdir()] == ['lock']
    assert run(tmp_path, configs)[1] == []


def test_other_data_of_the_same_name_are_not_joined(tmp_path):
    record, _ = run(tmp_path, {'seed0': Config(0)})
    before = record.path.read_text()
    of_another_name = {'dataset': 'y', 'data_checksum': 'y'}
    record.check_data(of_another_name)
    with pytest.raises(UserError, match=r'results\.jsonl is of other data.*x, these y'):
        record.add({'settings': {'data_checksum': 'y'}, 'metrics': []})
    assert record.path.read_text() == before


def test_other_data_are_refused_before_anything_is_run_or_shown(tmp_path):
    record, _ = run(tmp_path, CONFIGS)
    with pytest.raises(UserError, match='is of other data'):
        run_missing(
            record.path,
            CONFIGS,
            pytest.fail,
            checksum=lambda config: 'y',
            runs_dir=tmp_path / 'runs',
        )


def test_data_that_are_not_there_are_asked_for_by_nobody(tmp_path):
    record, _ = run(tmp_path, CONFIGS)

    def checksum(config):
        raise UserError('there are none')

    again = run_missing(
        record.path, CONFIGS, pytest.fail, checksum=checksum, runs_dir=tmp_path / 'runs'
    )
    assert again.runs == record.runs


def test_without_time_nothing_is_begun(tmp_path):
    record, _ = run(tmp_path, CONFIGS, minutes=-1.0)
    assert not record.runs and not record.path.exists()


def test_an_unfinished_line_is_none_and_is_cut_off(tmp_path):
    record, _ = run(tmp_path, {'seed0': Config(0)})
    whole = record.path.read_bytes()
    record.path.write_bytes(whole + '{"settings": {"seed": "é'.encode()[:-1])
    assert len(Record(record.path).runs) == 1
    run(tmp_path, CONFIGS)
    assert record.path.read_bytes().startswith(whole)
    assert len(Record(record.path).runs) == 3


def test_a_whole_line_without_its_end_is_a_run_and_is_kept(tmp_path):
    record, _ = run(tmp_path, {'seed0': Config(0), 'seed1': Config(1)})
    whole = record.path.read_bytes()
    record.path.write_bytes(whole.removesuffix(b'\n'))
    assert Record(record.path).runs == record.runs
    run(tmp_path, CONFIGS)
    assert record.path.read_bytes().startswith(whole)
    assert [line['settings']['seed'] for line in Record(record.path).runs] == [0, 1, 2]


@pytest.mark.parametrize('end', ['{"mine": 1}', 'mine', ' '])
def test_a_file_that_ends_with_something_else_is_kept(tmp_path, end):
    record, _ = run(tmp_path, {'seed0': Config(0)})
    for content in (end, record.path.read_text() + end):
        record.path.write_text(content)
        with pytest.raises(UserError, match='ends with what is no result of a run'):
            run(tmp_path, CONFIGS)
        assert record.path.read_text() == content
        record.path.write_text(content.removesuffix(end))


def test_two_that_add_to_one_file_keep_each_others_lines(tmp_path):
    path = tmp_path / 'results.jsonl'
    first, second = Record(path), Record(path)
    lines = [{'settings': {'seed': seed}, 'metrics': []} for seed in range(3)]
    for record, line in zip((first, second, first), lines, strict=True):
        record.add(line)
    assert Record(path).runs == lines


@pytest.mark.parametrize('line', ['{"settings": {', '3', '{"settings": {}}'])
def test_a_line_that_is_no_run_is_named(tmp_path, line):
    record, _ = run(tmp_path, {'seed0': Config(0)})
    before = record.path.read_text() + line + '\n'
    record.path.write_text(before)
    with pytest.raises(UserError, match='line 2'):
        run(tmp_path, CONFIGS)
    assert record.path.read_text() == before


def test_another_setting_is_another_run(tmp_path):
    record, _ = run(tmp_path, CONFIGS)
    assert record.find(Config(2)) == record.runs[2]
    assert record.find(Config(2, sizes=(1,))) is None
    assert record.find(Config(4)) is None


def test_a_setting_that_came_later_had_its_default(tmp_path):
    record, _ = run(tmp_path, {'seed0': Config(0)})
    text = record.path.read_text()
    record.path.write_text(text.replace('"sizes": [1, 2], ', ''))
    record = Record(record.path)
    assert 'sizes' not in record.runs[0]['settings']
    assert record.find(Config(0)) is not None
    assert record.find(Config(0, sizes=(1,))) is None


@pytest.mark.parametrize('config', [CifarConfig(), LmConfig()])
def test_the_examples_settings_come_back_from_json(tmp_path, config):
    line = {'settings': config.settings() | {'data_checksum': 'x'}, 'metrics': []}
    path = tmp_path / 'results.jsonl'
    path.write_text(json.dumps(line) + '\n')
    assert Record(path).find(config) is not None
    other = dataclasses.replace(config, seed=1)
    assert Record(path).find(other) is None
