"""Write every workflow as YAML: `make render`."""

from __future__ import annotations

from pathlib import Path

from workflows.manifests import render


def main() -> None:
    """Write the files, each only if it differs."""
    for name, text in render().items():
        file = Path(__file__).with_name(name)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote workflows/{name}")


main()
