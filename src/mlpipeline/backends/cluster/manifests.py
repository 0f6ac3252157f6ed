"""The manifests that steps apply: templates of the deployment, completed with what a run knows.

They are files of `manifests/base/templates`, in a ConfigMap that these pods mount. So what a pod
may do, asks for and mounts is read and changed where all other manifests are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mlpipeline.backends.cluster.api import Manifest
from mlpipeline.errors import ConfigurationError

_WORKSPACE = "workspace"  # the volume that all templates call so


def load(folder: Path, name: str, *, variant: str = "") -> Manifest:
    """Read `NAME.yaml`, with what a variant changes, and the patches that components bring.

    The former is `NAME.VARIANT.yaml`, if there is one; the latter are `NAME.*patch.yaml`. They come
    last, so whoever sets something by a patch has it in each variant.

    Raises:
        ConfigurationError: There is no such file, or it is no manifest.
    """
    manifest = _read(folder / f"{name}.yaml")
    changes = [folder / f"{name}.{variant}.yaml"] if variant else []
    for patch in [*filter(Path.exists, changes), *sorted(folder.glob(f"{name}.*patch.yaml"))]:
        manifest = merge(manifest, _read(patch))
    return manifest


def merge(base: Any, patch: Any) -> Any:
    """Merge a patch as RFC 7386 does, but lists of named things by their names.

    That is how Kubernetes merges containers and volumes; other lists are replaced.
    """
    if isinstance(patch, dict):
        base = base if isinstance(base, dict) else {}
        merged = {key: merge(base.get(key), value) for key, value in patch.items()}
        return {k: v for k, v in (base | merged).items() if v is not None or k not in patch}
    if _is_named(base) and _is_named(patch):
        changes = {item["name"]: item for item in patch}
        kept = [merge(item, changes.pop(item["name"], {})) for item in base]
        return [*kept, *changes.values()]
    return patch


def with_container(containers: list[Manifest], name: str, **fields: Any) -> list[Manifest]:
    """Return the containers of a pod with some fields of the named one set; others are sidecars."""
    (main,) = (c for c in containers if c["name"] == name)
    return [c | fields if c is main else c for c in containers]


def with_reach(
    containers: list[Manifest], name: str, *, reads: Iterable[Path], writes: Iterable[Path] = ()
) -> list[Manifest]:
    """Return the containers of a pod of which the named one sees a part of the workspace alone.

    Where the template mounts the volume `workspace`, each of the folders is mounted in its place.

    Args:
        containers: The containers of a pod.
        name: The one that it is about.
        reads: What it sees, below the workspace's root.
        writes: What it may write to, likewise.

    Raises:
        ConfigurationError: It mounts no such volume.
    """
    places = dict.fromkeys(reads, True) | dict.fromkeys(writes, False)
    (main,) = (c for c in containers if c["name"] == name)
    mounts: list[Manifest] = []
    for mount in main.get("volumeMounts") or ():
        if mount["name"] != _WORKSPACE:
            mounts.append(mount)
            continue
        for place, is_read_only in places.items():
            where = {
                "mountPath": f"{mount['mountPath']}/{place}",
                "subPath": str(Path(mount.get("subPath", ""), place)),
                "readOnly": is_read_only,
            }
            mounts.append(mount | where)
    if not any(mount["name"] == _WORKSPACE for mount in mounts):
        raise ConfigurationError(
            f"the container {name} mounts no volume `{_WORKSPACE}`",
            expected="that it does: the step mounts parts of it in its place",
            remedy="mend manifests/base/templates, then `make deploy`",
        )
    return with_container(containers, name, volumeMounts=mounts)


def _is_named(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(i, dict) and "name" in i for i in items)


def _read(file: Path) -> Manifest:
    try:
        manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"cannot read {file}: {error}",
            expected="a manifest, as in manifests/base/templates",
            remedy="`make deploy` makes the ConfigMap `templates`, which is mounted there",
        ) from error
    if not isinstance(manifest, dict):
        raise ConfigurationError(
            f"{file} holds {type(manifest).__name__}",
            expected="one Kubernetes object",
            remedy="mend manifests/base/templates, then `make deploy`",
        )
    return manifest
