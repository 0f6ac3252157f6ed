"""Validate what kustomize renders against the definitions of its kinds.

Kubernetes' own kinds: the schemas that `kubernetes-validate` brings. The others: the definitions of
the very versions that manifests/platform installs. A field that a definition does not know is an
error, as it is for `kubectl apply`. (Argo's workflows have no schema in their definitions; `argo
lint` and the tests see to those.)
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ROOT / "manifests" / "platform"
KUBERNETES = "1.34"

Manifest = dict[str, Any]
Kind = tuple[str, str]


def main() -> int:
    """Print every problem of every manifest, and return how the process ends."""
    schemas = definitions()
    problems = 0
    seen = set()
    for origin, manifests in _sources():
        for manifest in manifests:
            content = json.dumps(manifest, sort_keys=True, default=str)
            if content in seen:  # most objects are the same in all overlays
                continue
            seen.add(content)
            for problem in check(manifest, schemas):
                name = manifest.get("metadata", {}).get("name", "?")
                print(f"{origin}: {manifest.get('kind')} {name}: {problem}")
                problems += 1
    return int(problems > 0)


def check(manifest: Manifest, schemas: Mapping[Kind, Manifest]) -> Iterator[str]:
    """Yield what is wrong with a manifest.

    Args:
        manifest: One document.
        schemas: The schemas of the kinds that are not Kubernetes' own, by apiVersion and kind.
    """
    kind = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if kind in schemas:
        validator = jsonschema.Draft202012Validator(schemas[kind])
        for error in validator.iter_errors(manifest):
            yield f"{_place(error)}: {error.message}"
        return
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"no definition of {kind[0]} {kind[1]} is known"
    except kubernetes_validate.ValidationError as error:
        yield f"{_place(error)}: {error.message}"


def _place(error: Any) -> str:
    return ".".join(map(str, error.path)) or "the whole"


def _sources() -> Iterator[tuple[str, list[Manifest]]]:
    """Yield what is applied, by where it comes from."""
    for overlay in sorted((ROOT / "manifests" / "overlays").iterdir()):
        yield f"overlays/{overlay.name}", render(overlay)
    # What the steps complete, and then apply.
    for template in sorted((ROOT / "manifests" / "base" / "templates").glob("*.yaml")):
        yield f"templates/{template.name}", _documents(template.read_text())


def render(folder: Path) -> list[Manifest]:
    """Return all that `kubectl kustomize` makes of a folder."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: `{' '.join(command)}` failed:\n{done.stderr}")
    return _documents(done.stdout)


def _documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


# --- The definitions ----------------------------------------------------------------------------


def definitions() -> dict[Kind, Manifest]:
    """Return the schemas of all kinds that the platform defines.

    Rendering the platform fetches it, so the result is kept until a file of the platform changes.
    """
    files = sorted(path for path in PLATFORM.rglob("*") if path.is_file())
    content = b"".join(path.read_bytes() for path in (*files, Path(__file__)))
    kept = ROOT / ".tools" / f"schemas-{hashlib.sha256(content).hexdigest()[:16]}.json"
    if kept.exists():
        listed = json.loads(kept.read_text())
    else:
        rendered = [render(folder) for folder in sorted(PLATFORM.iterdir()) if folder.is_dir()]
        listed = [entry for manifests in rendered for entry in schemas_of(manifests)]
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(listed))
    return {(version, kind): schema for version, kind, schema in listed}


def schemas_of(manifests: list[Manifest]) -> Iterator[tuple[str, str, Manifest]]:
    """Yield apiVersion, kind and strict schema of each version that is defined and served."""
    for manifest in manifests:
        if manifest["kind"] != "CustomResourceDefinition":
            continue
        spec = manifest["spec"]
        for version in spec["versions"]:
            if version["served"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # The API server knows these two without being told.
                schema["properties"]["metadata"] = {"type": "object"}
                yield f"{spec['group']}/{version['name']}", spec["names"]["kind"], schema


def strict(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, as the API server does on `apply`."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-embedded-resource"):
        made.pop("additionalProperties", None)
    return made


if __name__ == "__main__":
    sys.exit(main())
