"""Runs what is missing of a plan, and writes its tables and pictures.

`NAME.jsonl` has a line for each run and only grows, `NAME.md` the tables of what there
is, `NAME-TABLE-DATA.png` the curves of a table with one batch size. `NAME.json` is
there when nothing is missing, and `runs/NAME` holds the runs under way.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.lab.cli import UserError
from experiments.lab.output_files import check_ours, check_replaceable, write_atomically
from experiments.lab.plans import Plan
from experiments.lab.record import Record, run_missing
from experiments.lab.report import Results, draw, report


def run_plan(
    plan: Plan,
    out_dir: Path,
    *,
    configure: Callable[[dict[str, Any]], Any],
    train: Callable[[Any], Any],
    checksum: Callable[[Any], str],
    minutes: float | None = None,
    images: str | None = None,
) -> Results:
    """Runs what has no line yet, in the plan's order, and shows what there is.

    Args:
      plan: what is compared.
      out_dir: where everything is written.
      configure: makes the configuration of a run from its settings.
      train: trains as a configuration says; what it returns has `metrics`.
      checksum: of the data that a configuration names.
      minutes: after which no run is begun; None is without end.
      images: what the images are, if the names of the data sets do not say it.

    Raises:
      UserError: as `train`, if no data are there, or a file of others is in the way.
    """
    results_path = out_dir / f'{plan.name}.jsonl'
    page, done = (out_dir / f'{plan.name}{plan.part}{end}' for end in ('.md', '.json'))
    pictures = [
        (table, dataset, out_dir / f'{plan.name}-{table.name}-{dataset}.png')
        for table in plan.tables
        for dataset in table.datasets
        if len(table.batch_sizes) == 1
    ]
    configs = {name: configure(told) for name, told in plan.runs().items()}
    scale = json.loads(json.dumps(plan.scale))
    check_replaceable(done, lambda file: file['scale'], scale)
    there = Results(plan, Record(results_path), configure).all()
    check_ours(there, page, *(path for _, _, path in pictures))
    record = run_missing(
        results_path,
        available(configs, checksum) if minutes != 0 else {},
        train,
        checksum=checksum,
        runs_dir=out_dir / 'runs' / plan.name,
        minutes=minutes,
        say=functools.partial(print, flush=True),
    )
    made = [name for name, config in configs.items() if record.find(config) is not None]
    print(f'{len(made)} of {len(configs)} runs are in {results_path}')
    done.unlink(missing_ok=True)
    results = Results(plan, record, configure)
    if results.all():
        text = report(results, images)
        print(f'\n{text}')
        write_atomically(page, text)
        for table, dataset, path in pictures:
            draw(results, table, dataset, path)
    if len(made) == len(configs):
        summary = json.dumps({'scale': scale, 'runs': made}, indent=1)
        write_atomically(done, summary + '\n')
    return results


def available(
    configs: Mapping[str, Any], checksum: Callable[[Any], str]
) -> dict[str, Any]:
    """The runs whose data are there; says why the others are skipped.

    Raises:
      UserError: if there are none.
    """
    refusals: dict[str, UserError] = {}
    there = set()
    for dataset, config in {c.dataset: c for c in configs.values()}.items():
        try:
            checksum(config)
            there.add(dataset)
        except UserError as error:
            refusals[dataset] = error
    if not there:
        raise next(iter(refusals.values()))
    for dataset, refusal in refusals.items():
        print(f'{dataset} is skipped: {refusal}', flush=True)
    return {name: c for name, c in configs.items() if c.dataset in there}
