"""`make release`: check that everything names one version, then build what a release consists of.

The images are built by `make release` after this.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Every place where the version stands beside an image's name, whoever writes it.
_IMAGE = re.compile(r"(?<![\w-])(mlpipeline(?:-predictor)?):(\d+\.\d+\.\d+)")
_WRITTEN_IN = (".md", ".py", ".yaml", "Makefile", "Dockerfile")
LOCKS = ("cpu", "gpu", "light", "predictor", "tracking")


def main(arguments: list[str]) -> int:
    """Print every problem, or build; return how the process ends."""
    parser = argparse.ArgumentParser(description="Check the version everywhere, and build.")
    parser.add_argument("--set", action="store_true", help="only write it into all other files")
    version = project_version(ROOT)
    if parser.parse_args(arguments).set:
        set_version(ROOT, version)
        return 0
    problems = [*version_problems(ROOT, version), *commit_problems(ROOT, version)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 1
    build(ROOT, version)
    return 0


def project_version(root: Path) -> str:
    """Return the version that pyproject.toml states, which the others follow."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return str(project["version"])


# --- Checks -------------------------------------------------------------------------------------


def version_problems(root: Path, version: str) -> Iterator[str]:
    """Yield each file that names another version, and what the changelog lacks."""
    for path in _files(root):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for image, found in _IMAGE.findall(line):
                if found != version:
                    yield _problem(
                        f"{path.relative_to(root)}:{number} names {image}:{found}",
                        f"{image}:{version}, as pyproject.toml says",
                        "make release-version",
                    )
    if not notes(root, version):
        yield _problem(
            f"CHANGELOG.md has no entry of {version}",
            f"a heading `## [{version}] - YYYY-MM-DD` and what has changed",
            "write it, from what stands under `Unreleased`",
        )


def commit_problems(root: Path, version: str) -> Iterator[str]:
    """Yield what is not committed, and a tag that is missing or another."""
    if changed := _git(root, "status", "--porcelain"):
        first = changed.splitlines()[0]
        yield _problem(
            f"the tree is not clean: `{first}`", "nothing uncommitted", "commit it, or remove it"
        )
    tags = _git(root, "tag", "--points-at", "HEAD").split()
    if f"v{version}" not in tags:
        yield _problem(
            f"this commit has {'the tag ' + ', '.join(tags) if tags else 'no tag'}",
            f"the tag v{version}",
            f"git tag v{version}",
        )


def notes(root: Path, version: str) -> str:
    """Return what the changelog says of a version, without its heading; empty if nothing."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(
        rf"{heading}(.*?)(?=^## |^\[|\Z)",
        (root / "CHANGELOG.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return found[1].strip() if found else ""


def _problem(got: str, expected: str, remedy: str) -> str:
    return f"{got}\n  expected: {expected}\n  to do:    {remedy}"


def _files(root: Path) -> list[Path]:
    # Unit tests make up versions of their own.
    listed = _git(root, "ls-files", "--", ".", ":!tests/unit").splitlines()
    paths = [root / name for name in listed]
    return [
        path
        for path in paths
        if path.name.endswith(_WRITTEN_IN) and path.name != "CHANGELOG.md" and path.is_file()
    ]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


# --- What a release changes and builds ----------------------------------------------------------


def set_version(root: Path, version: str) -> None:
    """Write a version into every file that names an image."""
    for path in _files(root):
        text = path.read_text()
        written = _IMAGE.sub(rf"\1:{version}", text)
        if written != text:
            path.write_text(written)


def build(root: Path, version: str) -> None:
    """Build wheel, source archive, bills of materials and release notes into dist/.

    There is a bill of materials for each lock file, so for each image and variant:
    https://cyclonedx.org/docs/1.6/json/
    """
    folder = root / "dist"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    _python(root, "hatchling", "build", "--directory", str(folder))
    for lock in LOCKS:
        bill = folder / f"mlpipeline-{version}-{lock}.cdx.json"
        requirements = f"docker/requirements-{lock}.lock"
        _python(
            root,
            *("cyclonedx_py", "requirements", requirements, "--pyproject", "pyproject.toml"),
            *("--output-format", "JSON", "--output-reproducible", "--output-file", str(bill)),
        )
    (folder / "notes.md").write_text(notes(root, version) + "\n")
    print("built", *sorted(file.name for file in folder.iterdir()), sep="\n  ")


def _python(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], cwd=root, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
