"""Writes the generated parts of docs/, the configuration's JSON schema and the operator's rules.

A page says where a part stands by two comments, `<!-- generated: NAME -->` and `<!-- end -->`; the
text between them is replaced. `make reference` calls it; a unit test fails where a part is not what
the code says now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from reference import alerts, artifact_files, command_line, configuration, remedies, versions

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "configs" / "schema.json"
PARTS: dict[str, Callable[[], str]] = {
    "alerts": lambda: alerts.render(ROOT),
    "artifacts": artifact_files.render,
    "command line": command_line.render,
    "configuration": configuration.render,
    "remedies": lambda: remedies.render(ROOT / "src" / "mlpipeline"),
    "workspace": artifact_files.tree,
    "versions": lambda: versions.render(ROOT),
}
_PART = re.compile(r"(?<=<!-- generated: )([a-z ]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def generated() -> dict[Path, str]:
    """Return what every file with a generated part should hold."""
    files = {}
    for page in sorted(ROOT.glob("docs/**/*.md")):
        text = page.read_text(encoding="utf-8")
        if _PART.search(text):
            files[page] = _PART.sub(_replacement, text)
    files[SCHEMA] = json.dumps(configuration.schema(), indent=2, ensure_ascii=False) + "\n"
    files[ROOT / alerts.OPERATORS] = alerts.prometheus_rule(ROOT)
    return files


def _replacement(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}\n{PARTS[match[1]]().strip()}\n\n"


def main() -> None:
    """Write every file anew."""
    for file, content in generated().items():
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
