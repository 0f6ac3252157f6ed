"""Argo's memo, a ConfigMap: what is untrue in it is forgotten before Argo reads it.

Argo believes an entry without a look at what it stands for, and fails at one that it cannot read:
"malformed cache entry", on every run from then on. Whoever knows better removes it first.
https://argo-workflows.readthedocs.io/en/release-3.7/memoization/
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from mlpipeline.backends.cluster.api import Cluster

_log = logging.getLogger(__name__)

_TIME = "%Y-%m-%dT%H:%M:%S%z"
_LABEL = {"workflows.argoproj.io/configmap-type": "Cache"}  # without it Argo refuses the ConfigMap


class _Parameter(BaseModel):
    name: str
    value: str


class _Outputs(BaseModel):
    parameters: list[_Parameter] | None = None
    artifacts: list[dict[str, object]] | None = None
    result: str | None = None
    exitCode: str | None = None  # noqa: N815 - Argo's name


class _Entry(BaseModel):
    """What Argo writes; fields that it may add are its own affair."""

    model_config = ConfigDict(strict=True)

    nodeID: str = Field(min_length=1)  # noqa: N815
    outputs: _Outputs | None
    creationTimestamp: str  # noqa: N815
    lastHitTimestamp: str  # noqa: N815


def entries(cluster: Cluster, name: str) -> dict[str, str]:
    """Return what is remembered, by its key; the ConfigMap is made anew if it is not there.

    Args:
        cluster: Where it is.
        name: The name of the ConfigMap.
    """
    found = cluster.get("ConfigMap", name)
    labels = ((found or {}).get("metadata") or {}).get("labels") or {}
    if not labels.items() >= _LABEL.items():
        _log.info("the memo %s is made anew: it was gone, or without its label", name)
        labels = {"app.kubernetes.io/part-of": "mlpipeline"} | labels | _LABEL
        metadata = {"name": name, "labels": labels}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    return dict((found or {}).get("data") or {})


def forget(
    cluster: Cluster,
    name: str,
    true: Mapping[str, bool],
    *,
    answers: Mapping[str, str] | None = None,
) -> None:
    """Remove the entries that are known to be untrue, and all that Argo could not read.

    Args:
        cluster: Where the memo is.
        name: The name of the ConfigMap.
        true: Keys that somebody has looked after: whether what they stand for is there.
        answers: Keys, and the output, an object as JSON, without which their entry is worthless.
    """
    needed = answers or {}
    untrue = [
        key
        for key, text in sorted(entries(cluster, name).items())
        if not true.get(key, True) or not _is_answer(text, needed.get(key))
    ]
    if untrue:
        _log.info("forgotten, because it is gone, damaged or changed: %s", ", ".join(untrue))
        cluster.patch("ConfigMap", name, {"data": dict.fromkeys(untrue)})


def _is_answer(text: str, output: str | None) -> bool:
    """Whether Argo can read an entry, and an output of it is there that was asked for."""
    try:
        entry = _Entry.model_validate_json(text)
        for moment in (entry.creationTimestamp, entry.lastHitTimestamp):
            datetime.strptime(moment, _TIME)
        given = (entry.outputs and entry.outputs.parameters) or ()
        found = {parameter.name: parameter.value for parameter in given}
        return output is None or isinstance(json.loads(found[output]), dict)
    except (KeyError, ValueError):  # also pydantic's
        return False
