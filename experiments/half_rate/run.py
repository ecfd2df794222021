"""Is diffGrad only Adam at half the learning rate? Trains, and draws the answer.

python -m experiments.half_rate.run

Every run is a line of a file that only grows; a run that has its line is not repeated.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.half_rate.experiment import SCALES, Network, results, run_network
from experiments.half_rate.pictures import draw
from experiments.half_rate.table import Lines, tables
from experiments.lab import cli
from experiments.lab.cli import option
from experiments.lab.output_files import check_ours, check_replaceable, write_atomically
from experiments.lab.record import Record

DONE = 'half_rate.json'
SHOWN = (
    'half_rate.md',
    *(f'half_rate-{picture}.png' for picture in ('friction', 'rates', 'loss')),
)


@dataclass(frozen=True)
class Settings:
    """Everything that the command is told."""

    scale: Literal['embedded', 'paper', 'smoke'] = option(
        'embedded', 'how large the networks are; paper is for a GPU'
    )
    data_dir: Path | None = option(
        None,
        'where CIFAR-10 lies, which --scale paper needs; left out, the embedded scale '
        'does without',
    )
    out_dir: Path = option(Path('runs/half_rate'), 'where everything is written')
    minutes: float | None = option(
        None, 'after which no run is begun; the same command goes on'
    )
    smoke: bool = option(False, 'the same as --scale smoke')


def path_of(out_dir: Path, network: str) -> Path:
    return out_dir / f'half_rate-{network}.jsonl'


def all_results(networks: dict[str, Network], out_dir: Path) -> dict[str, Lines]:
    """The lines that there are of each network."""
    return {
        name: results(network, Record(path_of(out_dir, name)))
        for name, network in networks.items()
    }


def check_out_dir(networks: dict[str, Network], out_dir: Path, scale: str) -> None:
    """Refuses a folder in which something else would be written over.

    Raises:
      UserError: naming the file.
    """
    check_replaceable(out_dir / DONE, lambda done: done['scale'], scale)
    lines = all_results(networks, out_dir)
    check_ours(any(lines.values()), *(out_dir / name for name in (DONE, *SHOWN)))


def check_data(networks: dict[str, Network], out_dir: Path) -> None:
    """Looks for the data of all runs that are missing, before the first takes hours.

    Raises:
      UserError: if some are not there.
    """
    for name, of_network in all_results(networks, out_dir).items():
        if len(of_network) < len(networks[name].runs()):
            networks[name].checksum(networks[name].config)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, minutes=0)
    scale = 'smoke' if settings.smoke else settings.scale
    networks = SCALES[scale](settings.data_dir)
    out_dir = settings.out_dir
    minutes = math.inf if settings.minutes is None else settings.minutes
    deadline = time.monotonic() + 60 * minutes
    check_out_dir(networks, out_dir, scale)
    if minutes:
        check_data(networks, out_dir)
    for name, network in networks.items():
        print(f'{name}: {len(network.runs())} runs', flush=True)
        run_network(network, path_of(out_dir, name), out_dir / 'runs' / name, deadline)
    show(networks, out_dir, scale)


def show(networks: dict[str, Network], out_dir: Path, scale: str) -> None:
    """Tables and pictures of what there is, and `half_rate.json` if that is all."""
    lines = all_results(networks, out_dir)
    if not any(lines.values()):
        print(f'nothing to show: {out_dir} has no such runs')
        return
    text = tables(networks, lines)
    print(f'\n{text}\n\neverything is in {out_dir}')
    write_atomically(out_dir / 'half_rate.md', text + '\n')
    draw(out_dir, networks, lines)
    done_path = out_dir / DONE
    done_path.unlink(missing_ok=True)
    if all(len(lines[name]) == len(networks[name].runs()) for name in networks):
        counts = {name: len(of_network) for name, of_network in lines.items()}
        summary = json.dumps({'scale': scale, 'runs': counts}, indent=1)
        write_atomically(done_path, summary + '\n')


if __name__ == '__main__':
    cli.run(main)
