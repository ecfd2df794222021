"""A page that loads something from the network ends the build."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

# Not what a reader may follow (<a href>), but what a browser fetches by itself.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b[^>]*\bhref="(?:https?:)?//[^"]*"'
    r'|(?:url\(|@import )["\']?(?:https?:)?//[^)"\']*'
)


def check(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    for suffix in ('html', 'css'):
        for page in sorted(Path(app.outdir).rglob(f'*.{suffix}')):
            if fetched := FETCHED.search(page.read_text(encoding='utf-8')):
                raise SphinxError(f'{page} loads from the network: {fetched[0]}')


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect('build-finished', check)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
