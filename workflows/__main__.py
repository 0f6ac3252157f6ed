"""Write every workflow as YAML: `make render`."""

from __future__ import annotations

from pathlib import Path

from workflows import drift, events, manifests

HERE = Path(__file__).parent
COMPONENTS = HERE.parent / "manifests" / "components"
FOLDERS = {
    HERE: manifests.render,
    COMPONENTS / "events": events.render,
    COMPONENTS / "drift": drift.render,
}


def main() -> None:
    """Write the files, each only if it differs."""
    for folder, render in FOLDERS.items():
        for name, text in render().items():
            file = folder / name
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                file.write_text(text, encoding="utf-8")
                print(f"wrote {file.relative_to(HERE.parent)}")


main()
