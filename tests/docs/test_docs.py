"""What the build of the site refuses, on sites of one page."""

import importlib
import inspect
import io
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace

import diffgrad_optax

EXTENSIONS = Path(__file__).parents[2] / 'docs' / '_extensions'


@pytest.fixture
def warnings_of(tmp_path, monkeypatch):
    """Builds a page with one of our extensions; returns the build's warnings."""
    monkeypatch.syspath_prepend(EXTENSIONS)

    def build(extension, page):
        (tmp_path / 'index.rst').write_text(f'Title\n=====\n\n{page}\n')
        warnings = io.StringIO()
        with docutils_namespace():
            Sphinx(
                tmp_path,
                None,
                tmp_path / 'out',
                tmp_path / 'out',
                'html',
                {'extensions': [extension], 'html_theme': 'basic'},
                status=None,
                warning=warnings,
            ).build()
        return warnings.getvalue()

    return build


def test_a_public_name_without_documentation_is_a_warning(warnings_of):
    documented = '.. py:function:: diffgrad_optax.diffgrad(learning_rate)'
    warnings = warnings_of('complete_api', documented)
    for module in (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules):
        for name in module.__all__:
            missing = f'{module.__name__}.{name} is public'
            assert (missing in warnings) == (name != 'diffgrad'), name


FUNCTIONS = [
    pytest.param(getattr(module, name), id=name)
    for module in (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules)
    for name in module.__all__
    if inspect.isfunction(getattr(module, name)) and name not in ('dfc4', 'dfc5')
]


@pytest.mark.parametrize('function', FUNCTIONS)
def test_every_argument_is_documented_in_full_where_it_is_rendered(
    function, monkeypatch
):
    monkeypatch.syspath_prepend(EXTENSIONS)
    shared = importlib.import_module('shared_arguments')
    lines = list(shared.expanded(inspect.getdoc(function).splitlines()))
    for name in inspect.signature(function).parameters:
        text = shared.argument_text(lines, name)
        assert not text[0].startswith(f'  {name}: as :func:')


@pytest.mark.parametrize(
    'html',
    [
        '<script async src="https://cdn.example/a.js"></script>',
        '<img alt="" src="//cdn.example/a.png">',
        '<link rel="stylesheet" href="https://cdn.example/a.css">',
        '<style>@import "https://cdn.example/a.css";</style>',
        '<style>p { background: url(https://cdn.example/a.png) }</style>',
    ],
)
def test_a_page_that_loads_from_the_network_ends_the_build(warnings_of, html):
    with pytest.raises(SphinxError, match=r'loads from the network.*cdn\.example'):
        warnings_of('offline', f'.. raw:: html\n\n   {html}')


def test_a_link_that_a_reader_may_follow_loads_nothing(warnings_of):
    link = '<a href="https://example.org">elsewhere</a>'
    assert warnings_of('offline', f'.. raw:: html\n\n   {link}') == ''


def test_a_command_of_mathematics_that_is_unknown_is_a_warning(warnings_of):
    assert r'\nonsense' in warnings_of('mathml', r':math:`\nonsense{x}`')


@pytest.fixture
def mathml(monkeypatch):
    monkeypatch.syspath_prepend(EXTENSIONS)
    return importlib.import_module('mathml').mathml


def test_lines_are_rows_of_a_table_with_the_environment_or_without(mathml):
    lines = r'a &= b \\ c &= d'
    table = mathml(lines, 'block')
    assert table.count('<mtr>') == 2
    assert mathml(rf'\begin{{aligned}}{lines}\end{{aligned}}', 'block') == table


def test_bars_stretch_with_left_and_right_alone(mathml):
    bar = '<mo stretchy="false" lspace="0" rspace="0">{}</mo>'
    assert mathml(r'|g| \lVert g \rVert', 'inline').count(bar.format('&#x0007C;')) == 2
    assert mathml(r'\lVert g \rVert', 'inline').count(bar.format('&#x02016;')) == 2
    assert mathml(r'\left| g \right|', 'inline').count('stretchy="true"') == 2
