"""Lists the records whose code has changed since they were made.

    python -m benchmarks.stale

A record names its commit; its code is the package and its program's folder. Comments,
docstrings and formatting do not count as changes.
"""

import argparse
import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    command = ['git', '-C', root, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


class _NoDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def program(source: str) -> str:
    """What Python runs of a file."""
    return ast.dump(_NoDocstrings().visit(ast.parse(source)))


def folders(record: Path) -> tuple[str, ...]:
    """Where the code of a record is."""
    if record.parts[0] == 'benchmarks':
        return 'diffgrad_optax/', 'benchmarks/'
    name = re.match('half_rate|landscapes|lm|regret|study|tables|', record.name)[0]
    return 'diffgrad_optax/', 'experiments/lab/', f'experiments/{name or "cifar"}/'


def changed(root: Path, commit: str, within: tuple[str, ...]) -> list[str]:
    """The files that run otherwise than at the commit, or are gone."""
    changes = git(root, 'diff', '--name-status', '-M', '--diff-filter=MRD', commit)
    files = []
    for status, *paths in (line.split('\t') for line in changes.splitlines()):
        old, new = paths[0], paths[-1]
        if new.startswith(within) and new.endswith('.py'):
            now = '' if status == 'D' else (root / new).read_text(encoding='utf-8')
            if program(git(root, 'show', f'{commit}:{old}')) != program(now):
                files.append(new)
    return files


def report(root: Path) -> None:
    """Prints a line for each commit of each record that is in doubt."""
    for path in sorted(root.glob('*/results/**/*.json*')):
        record = path.relative_to(root)
        found = re.findall(r'"commit": "([0-9a-f]+)', path.read_text(encoding='utf-8'))
        for commit in sorted(set(found)):
            try:
                if files := changed(root, commit, folders(record)):
                    print(f'{record}: since {commit} changed {", ".join(files)}')
            except subprocess.CalledProcessError:
                print(f'{record}: its commit {commit} is not in this repository')
        if not found:
            print(f'{record}: names no commit')


def main() -> None:
    """Takes no arguments."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    report(ROOT)


if __name__ == '__main__':
    main()
