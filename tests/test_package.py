"""The package as a stranger meets it: the wheel, its dependencies, its names."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import diffgrad_optax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    options = ('--quiet', '--no-deps', '--no-index', '--no-build-isolation')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', out, ROOT],
        check=True,
    )
    (path,) = out.glob('*.whl')
    return path


def test_the_wheel_holds_the_typed_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert 'diffgrad_optax/py.typed' in names
    tops = {name.split('/')[0] for name in names}
    version = diffgrad_optax.__version__
    assert tops == {'diffgrad_optax', f'diffgrad_optax-{version}.dist-info'}


def test_the_wheel_imports_and_steps_on_its_own(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import jax.numpy as jnp
import diffgrad_optax
assert diffgrad_optax.__file__.startswith(sys.argv[1]), diffgrad_optax.__file__
optimizer = diffgrad_optax.diffgrad(0.1)
state = optimizer.init(jnp.zeros(2))
updates, _ = optimizer.update(jnp.ones(2), state)
assert (updates < 0).all()
extra = {'flax', 'matplotlib', 'orbax', 'sklearn', 'torch'} & set(sys.modules)
assert not extra, extra
"""
    subprocess.run(
        [sys.executable, '-W', 'error', '-c', program, tmp_path],
        cwd=tmp_path,
        check=True,
    )


def test_run_time_dependencies_are_jax_and_optax_alone():
    names = {re.match(r'[a-z]+', line)[0] for line in PROJECT['dependencies']}
    assert names == {'jax', 'jaxlib', 'optax'}


def test_the_lowest_versions_that_are_required_are_tested():
    tested = PROJECT['optional-dependencies']['floor']
    assert {line.replace('>=', '==') for line in PROJECT['dependencies']} <= {*tested}


def test_versions_agree():
    version = diffgrad_optax.__version__
    assert metadata.version('diffgrad-optax') == version
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'\n## {version}' in (ROOT / 'CHANGELOG.md').read_text()


def test_the_names_in_the_readmes_table_are_public():
    readme = (ROOT / 'README.md').read_text()
    table = readme.split('| name | what it is |')[1].split('\n\n')[0]
    rows = re.findall(r'^\| (`\w.*) \|.*\|$', table, re.M)
    names = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert {'diffgrad', 'quantize_state'} <= names <= set(diffgrad_optax.__all__)


def test_workflows_and_pages_name_targets_that_the_makefile_has():
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M))
    pages = [ROOT / 'CONTRIBUTING.md', *(ROOT / '.github' / 'workflows').glob('*.yml')]
    for page in pages:
        for named in re.findall(r'(?:run: |`)make ([a-z -]+)', page.read_text()):
            assert set(named.split()) <= targets, (page.name, named)


def test_every_public_name_is_in_the_apis_index():
    index = (ROOT / 'docs' / 'api' / 'index.md').read_text()
    rows = set(re.findall(r'^   ([\w.]+)$', index, re.M))
    modules = (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules)
    names = {
        f'{module.__name__}.{name}' for module in modules for name in module.__all__
    }
    names -= {module.__name__ for module in modules}
    assert {f'diffgrad_optax.{row}' for row in rows} == names


def test_every_public_name_is_on_the_page_about_choosing():
    page = (ROOT / 'docs' / 'choosing.md').read_text()
    modules = (diffgrad_optax, diffgrad_optax.friction, diffgrad_optax.schedules)
    for module in modules:
        for name in module.__all__:
            # The coefficients stand there as a range, states with their optimizers.
            if not re.fullmatch(r'dfc\d?|[A-Z].*|friction|scale_by_\w+grad', name):
                assert re.search(rf'\b{name}\b', page), name
