"""Sphinx's settings: the Markdown files of the repository, each a page at its own path.

The source directory is the repository's root, so that a link between two of its files
leads to the same place here and on a page that shows the repository itself.
"""

import sys
from pathlib import Path

import diffgrad_optax

sys.path.insert(0, str(Path(__file__).parent / '_extensions'))

project = 'diffgrad-optax'
release = diffgrad_optax.__version__
author = copyright = 'The diffgrad-optax authors'
root_doc = 'docs/index'
include_patterns = [
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'docs/**.md',
    'experiments/*/README.md',
]
# Tables that pages include; an environment has Markdown files of its own.
exclude_patterns = ['docs/results', 'docs/_build', '.*', 'runs']

extensions = [
    'complete_api',
    'mathml',
    'myst_parser',
    'offline',
    'shared_arguments',
    'short_types',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
myst_enable_extensions = ['attrs_inline', 'colon_fence', 'dollarmath']
myst_heading_anchors = 3
default_role = 'code'
add_module_names = False
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 60
autodoc_member_order = 'bysource'
nitpicky = True
# Other projects' names are no links: their inventories would need the network.
nitpick_ignore_regex = [('py:.*', r'(chex|collections|jax|optax)\..*')]

html_theme = 'furo'
html_title = f'{project} {release}'
html_math_renderer = 'mathml'
html_static_path = ['_static']
html_css_files = ['site.css']
html_extra_path = ['_extra']
html_show_sourcelink = False
html_copy_source = False
# A button copies the program and leaves prompts and what is printed.
copybutton_exclude = '.linenos, .gp, .go'
