"""MkDocs' hook: links that leave docs/ lead to the repository's page of that file.

On GitHub `../../src/…` is the file itself. The site has the pages of docs/ only, so the same link
becomes one to `repo_url`. A link to a file that does not exist fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]*)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a page that lead out of docs/."""
    root = Path(config.config_file_path).parent
    folder = posixpath.join(Path(config.docs_dir).name, posixpath.dirname(page.file.src_uri))

    def address(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        if path.startswith("docs/"):
            return match[1]
        file = root / path
        if not file.exists():
            raise PluginError(
                f"{page.file.src_uri}: there is no {path}, expected a file to link to"
            )
        return f"{config.repo_url}/{'tree' if file.is_dir() else 'blob'}/main/{path}"

    return _LINK.sub(address, markdown)
