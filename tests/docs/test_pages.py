"""The Python of every page runs: a page is a program, read from top to bottom.

`<!-- clear-namespace -->` between two blocks starts another program.
"""

import re
from pathlib import Path

import jax
import pytest
from sybil import Sybil
from sybil.parsers.myst import ClearNamespaceParser, PythonCodeBlockParser

import diffgrad_optax

ROOT = Path(__file__).parents[2]
PYTHON = Sybil([ClearNamespaceParser(), PythonCodeBlockParser()])
PAGES = [
    page.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'docs/**/*.md', 'experiments/*/README.md')
    for page in sorted(ROOT.glob(pattern))
    if '```python' in page.read_text()
]


def run(page):
    for example in PYTHON.parse(page).examples():
        example.evaluate()


@pytest.mark.parametrize('page', PAGES)
def test_the_python_of_a_page_runs_and_prints_what_the_page_shows(
    page, float32, capsys
):
    with jax.numpy_rank_promotion('allow'):
        run(ROOT / page)
    shown = re.findall(r'^```text\n(.*?)^```', (ROOT / page).read_text(), re.M | re.S)
    if shown:
        assert capsys.readouterr().out == ''.join(shown)


def test_every_public_name_is_on_the_cheat_sheet():
    sheet = (ROOT / 'docs/cheatsheet.md').read_text()
    modules = (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules)
    names = [name for module in modules for name in module.__all__]
    assert [name for name in names if not re.search(rf'\b{name}\b', sheet)] == []


def test_the_readme_links_to_files_that_exist():
    # Links of the site's own pages are checked by its build.
    links = re.findall(r'\]\((?!http)([^)#]+)', (ROOT / 'README.md').read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pages_are_found_in_all_places():
    assert {'README.md', 'docs/scale.md', 'docs/tutorials/friction.md'} <= set(PAGES)


def test_a_block_is_run_after_those_above_it_up_to_a_cleared_namespace(tmp_path):
    page = tmp_path / 'page.md'
    blocks = '```python\nx = 1\n```\n\n{}\n\n```python\nassert x == 1\n```\n'
    page.write_text(blocks.format('Then:'))
    run(page)
    page.write_text(blocks.format('<!-- clear-namespace -->'))
    with pytest.raises(NameError, match='x'):
        run(page)
