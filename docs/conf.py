"""Sphinx's settings: the Markdown files of the repository, each a page at its own path.

The source directory is the repository's root, so that a link between two of its files
leads to the same place here and on a page that shows the repository itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / '_extensions'))

project = 'diffgrad-optax'
author = copyright = 'The diffgrad-optax authors'
root_doc = 'docs/index'
include_patterns = ['CHANGELOG.md', 'docs/**.md', 'experiments/*/README.md']
# Tables that pages include; an environment has Markdown files of its own.
exclude_patterns = ['docs/results', 'docs/_build', '.*', 'runs']

extensions = [
    'complete_api',
    'mathml',
    'myst_parser',
    'offline',
    'shared_arguments',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
]
myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 3
default_role = 'code'
add_module_names = False
# Docstrings say what an argument may be; the types of NamedTuples' fields stay.
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
nitpicky = True
# Other projects' names are no links: their inventories would need the network.
nitpick_ignore_regex = [('py:.*', r'(jax|optax)\..*')]

html_theme = 'furo'
html_title = 'diffgrad-optax'
html_math_renderer = 'mathml'
html_static_path = ['_static']
html_css_files = ['mathml.css']
html_extra_path = ['_extra']
html_show_sourcelink = False
html_copy_source = False
