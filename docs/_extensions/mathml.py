"""Mathematics as MathML: browsers draw it, without scripts and without a network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# | and ‖ that are not \left or \right: by themselves they would be spaced as operators
# and stretched over all that follows.
BAR = re.compile(r'<mo(?: stretchy="false")?>(&#x0007C;|&#x02016;)</mo>')


def mathml(tex: str, display: str) -> str:
    r"""The MathML of `tex`; lines that end in `\\` are aligned at their `&`.

    Raises:
      ValueError: if there is a command that the converter does not know.
    """
    aligned = r'\begin{aligned}' in tex
    tex = tex.replace('{aligned}', '{align*}')
    if display == 'block' and r'\\' in tex and not aligned:
        tex = rf'\begin{{align*}}{tex}\end{{align*}}'
    converted = convert(tex, display=display)
    if '\\' in converted:
        raise ValueError(f'a command of {tex!r} is unknown: {converted}')
    return BAR.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', converted)


def visit(self: Any, node: nodes.math | nodes.math_block) -> None:
    block = isinstance(node, nodes.math_block)
    tag, display = ('div', 'block') if block else ('span', 'inline')
    try:
        converted = mathml(node.astext(), display)
    except Exception as error:  # of the converter, for what is no LaTeX
        logger.warning('no mathematics: %s', error, location=node)
        converted = ''
    self.body.append(f'<{tag} class="math">{converted}</{tag}>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer('mathml', (visit, None), (visit, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
