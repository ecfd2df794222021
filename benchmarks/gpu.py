"""Runs what is not yet measured on a GPU, for as many minutes as there are.

python -m benchmarks.gpu --minutes 9

Each job is a process of its own that writes `NAME.json` when it is done, so a call
that is cut short costs the job under way and no other, and the next call goes on. The
experiments, which are hours, keep every run that they have made. A job that is named is
begun however little time is left.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import cli, results


class Job(NamedTuple):
    """A command that writes `name`.json into its --out-dir."""

    name: str
    command: tuple[str, ...]  # what follows `python -m`
    minutes: float  # more than the job took on an H200, or a guess
    reads_images: bool = False  # from --data-dir, where there is one
    goes_on: bool = False  # takes --minutes, and begins where it was stopped


def experiment(name: str, minutes: float, *command: str) -> Job:
    """A program of experiments/, in the setting of the paper."""
    return Job(name, command, minutes, reads_images=True, goes_on=True)


def update(tree: str, dtype: str, minutes: float, *more: str) -> Job:
    """The update benchmark on one tree in one dtype."""
    what = ('--tree', tree, '--dtype', dtype, '--rounds', '3')
    command = ('benchmarks.compare', *what, *more)
    return Job(f'update-{tree}-{dtype}', command, minutes)


# Of many arrays, compilation takes most of the time.
HALF = ('--materialized',)
# Of 1,000 arrays it takes minutes to compile.
WITHOUT_8_BITS = (*HALF, '--leave-out', 'diffgrad, 8-bit state')

# The most valuable first.
JOBS = (
    update('array', 'float32', 1.0),
    update('billion', 'float32', 2.2, *HALF),
    update('resnet50', 'float32', 2.2, *HALF),
    Job('throughput', ('benchmarks.throughput',), 4.0, reads_images=True),
    Job('correctness', ('benchmarks.correctness',), 5.0),
    Job(
        'throughput-one-graph',
        ('benchmarks.throughput', '--one-graph'),
        5.0,
        reads_images=True,
    ),
    update('billion', 'bfloat16', 2.5, *HALF),
    update('resnet50', 'bfloat16', 2.5, *HALF),
    update('array', 'bfloat16', 1.0),
    Job('costs', ('benchmarks.update', '--rounds', '3'), 4.5),
    update('decoder', 'float32', 4.5, *WITHOUT_8_BITS),
    update('decoder', 'bfloat16', 4.5, *WITHOUT_8_BITS),
    experiment('half_rate', 3.0, 'experiments.half_rate.run', '--scale', 'paper'),
    experiment(
        'tables-paper-first',
        5.0,
        *('experiments.cifar.plan', '--plan', 'tables', '--scale', 'paper'),
        *('--tables', 'first'),
        *('--datasets', 'cifar10', '--seeds', '0', '1', '2'),
    ),
    experiment(
        'tables-paper',
        5.0,
        *('experiments.cifar.plan', '--plan', 'tables', '--scale', 'paper'),
        *('--seeds', '0', '1', '2'),
    ),
)


def run_jobs(
    jobs: Sequence[Job],
    out_dir: Path,
    *,
    minutes: float,
    extra: Sequence[str] = (),
    data_dir: Path | None = None,
) -> list[Job]:
    """Runs the jobs without a result that fit into the time; returns those left.

    Args:
      jobs: in order of their value.
      out_dir: where results are, and are written.
      minutes: after which nothing runs any more.
      extra: more arguments for every job.
      data_dir: for the jobs that read images.
    """
    deadline = time.monotonic() + 60 * minutes
    outcomes = {
        job: f'is there already, {result_path(job, out_dir)}'
        for job in jobs
        if is_done(job, out_dir)
    }
    unmeasured = [job for job in jobs if job not in outcomes]
    for job in unmeasured:
        left = deadline - time.monotonic()
        if 60 * job.minutes > left:
            outcomes[job] = 'no time left'
            continue
        print(f'\n## {job.name}\n', flush=True)
        arguments = [*job.command, '--out-dir', str(folder(job, out_dir)), *extra]
        if job.reads_images and data_dir is not None:
            arguments += ['--data-dir', str(data_dir)]
        if job.goes_on:
            arguments += ['--minutes', f'{left / 60:.2f}']
        start = time.monotonic()
        end = run(arguments, timeout=left)
        if end == 'done' and not is_done(job, out_dir):
            end = 'wrote no result'
        outcomes[job] = f'{end} after {time.monotonic() - start:.0f} s'
    missing = [job for job in unmeasured if not is_done(job, out_dir)]
    for job, outcome in outcomes.items():
        print(f'{job.name}: {outcome}')
    print(f'left: {" ".join(job.name for job in missing) or "nothing"}', flush=True)
    return missing


def run(arguments: Sequence[str], *, timeout: float) -> str:
    """Runs `python -m` with these arguments; says how it ended."""
    # A group of its own, so that a compiler's workers end with it, in this session, so
    # that it ends with that. What it says is not lost when it is stopped.
    process = subprocess.Popen(
        [sys.executable, '-m', *arguments],
        env=os.environ | {'PYTHONUNBUFFERED': '1'},
        process_group=0,
    )
    # Told to end, it ends the job first.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return 'stopped at the deadline'
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return 'done' if code == 0 else f'failed with status {code}'


def is_done(job: Job, out_dir: Path) -> bool:
    """Whether a job's result is there, and whole."""
    try:
        json.loads(result_path(job, out_dir).read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return False
    return True


def result_path(job: Job, out_dir: Path) -> Path:
    """Where a job's result is when it is done."""
    return folder(job, out_dir) / f'{job.name}.json'


def folder(job: Job, out_dir: Path) -> Path:
    """Experiments leave more than one file."""
    return out_dir / 'experiments' if job.goes_on else out_dir


def has_gpu() -> bool:
    """Asked in another process: this one must leave the GPU's memory to the jobs."""
    code = 'import jax, sys; sys.exit(jax.default_backend() != "gpu")'
    return subprocess.run([sys.executable, '-c', code]).returncode == 0


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('jobs', nargs='*', metavar='JOB', help=', '.join(names))
    parser.add_argument('--minutes', type=float, default=9.0)
    parser.add_argument('--data-dir', type=cli.path, help="CIFAR-10's")
    parser.add_argument('--out-dir', type=cli.path, help='benchmarks/results/gpu')
    parser.add_argument(
        '--smoke', action='store_true', help='runs all in tiny form on a CPU'
    )
    args = parser.parse_args(argv)
    if not args.minutes >= 0:
        raise cli.UserError(f'--minutes {args.minutes} must be at least 0')
    if unknown := set(args.jobs) - set(names):
        parser.error(f'there is no job {", ".join(sorted(unknown))}')
    jobs = [job for job in JOBS if not args.jobs or job.name in args.jobs]
    if args.jobs or args.smoke:
        jobs = [job._replace(minutes=0.0) for job in jobs]
    if args.smoke:
        # Programs that are not timed need no optimisation, which takes long.
        os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
        os.environ['JAX_PLATFORMS'] = 'cpu'
    elif not has_gpu():
        sys.exit('JAX sees no GPU: there is nothing to measure here (see --smoke)')
    missing = run_jobs(
        jobs,
        results.folder(args.out_dir, 'gpu', smoke=args.smoke),
        minutes=args.minutes,
        extra=['--smoke'] if args.smoke else [],
        data_dir=args.data_dir,
    )
    sys.exit(1 if missing else 0)


if __name__ == '__main__':
    cli.run(main)
