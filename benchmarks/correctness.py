"""The optimizers' tests on the device that is there, most likely a GPU.

python -m benchmarks.correctness

They compare every step with float64 references, and what 8-bit codes promise with what
the device's roots and divisions make of it. Tests that fail are part of the result.
Needs pytest with xdist, hypothesis, chex and orbax.
"""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import cli, results
from benchmarks.tables import show

OK, TESTS_FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
NAME = 'correctness'
TESTS = Path(__file__).parents[1] / 'tests'
# Not those of what XLA compiles, which are of a CPU's programs, of several devices, and
# of 100,000 steps, whose kernels a GPU would start one by one.
FILES = (
    'test_friction.py',
    'test_friction_coefficients.py',
    'test_diffgrad.py',
    'test_quantize.py',
    'test_quantized_optax.py',
    'test_contract.py',
    'test_flax.py',
    'test_adadiff.py',
    'test_diffrgrad.py',
    'test_mars.py',
    'test_swats.py',
    'test_gains.py',
    'test_dropout.py',
    'test_trajectories.py',
    'test_nonfinite.py',
    'test_storage.py',
)


class Outcomes:
    """What pytest tells of each test, its workers' included."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()  # how many of each file
        self.failed: dict[str, str] = {}  # and what each says first
        self.broken: dict[str, str] = {}  # the same of files that do not load

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for set-up, call and end of each test."""
        if report.failed:
            self.failed[report.nodeid] = error_of(report.longreprtext)
        elif report.when == 'call' and report.passed:
            self.passed[report.nodeid.partition('::')[0]] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called by pytest for each file before its tests."""
        if report.failed:
            self.broken[report.nodeid] = error_of(report.longreprtext)


def error_of(report: str) -> str:
    """The first line of an error in pytest's words; the last of all without one."""
    lines = report.splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith('E ')]
    return (errors or lines[-1:] or [''])[0]


def run(files: Sequence[str], *arguments: str) -> dict[str, Any]:
    """Runs tests and returns how many of each file pass, and which fail.

    Raises:
      SystemExit: if they could not all be run.
    """
    outcomes = Outcomes()
    paths = [str(TESTS / name) for name in files]
    # pytest-benchmark warns of workers where it is installed, and warnings are errors.
    quiet = ['--quiet', '-p', 'no:cacheprovider', '-p', 'no:benchmark']
    code = pytest.main([*quiet, *arguments, *paths], plugins=[outcomes])
    if outcomes.broken or code not in (OK, TESTS_FAILED):
        raise SystemExit(f'pytest ended with {code!r}: {outcomes.broken}')
    return {'passed': dict(outcomes.passed), 'failed': outcomes.failed}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, default=12)
    parser.add_argument('--out-dir', type=cli.path)
    parser.add_argument('--smoke', action='store_true', help='one file, on a CPU')
    args = parser.parse_args(argv)
    # Each process takes what it needs of a GPU's memory, and not most of it.
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
    out_dir = results.folder(args.out_dir, jax.default_backend(), smoke=args.smoke)
    found = run(
        FILES[:1] if args.smoke else FILES,
        *('-n', '1' if args.smoke else str(args.workers)),
        *(('-k', 'dfc5') if args.smoke else ()),
    )
    result = {**results.facts(), **found}
    results.write(out_dir / f'{NAME}.json', result)
    show(result)


if __name__ == '__main__':
    cli.run(main)
