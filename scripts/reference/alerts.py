"""The alerts: a table for people, and the rules as the Prometheus operator takes them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

from reference import tables

RULES = "manifests/components/monitoring/rules.yaml"
OPERATORS = "manifests/components/monitoring-operator/prometheus-rule.yaml"

_HEADER = f"""\
# The rules for the Prometheus operator. Check: kubectl -n mlpipeline get prometheusrules.
# Written from {RULES} by `make reference`: change that, not this.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mlpipeline
spec:
"""


def render(root: Path) -> str:
    """Return a table of all alerts.

    Args:
        root: Folder of the repository.
    """
    rows = [
        (
            f"`{rule['alert']}`",
            _in_words(rule["annotations"]["summary"]),
            rule.get("for", "at once"),
            rule["labels"]["severity"],
            rule["annotations"]["description"],
        )
        for group in yaml.safe_load((root / RULES).read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return tables.table(("alert", "what it says", "after", "severity", "to do"), rows)


def prometheus_rule(root: Path) -> str:
    """Return the manifest of the operator's PrometheusRule.

    Args:
        root: Folder of the repository.
    """
    _, groups, rules = (root / RULES).read_text(encoding="utf-8").partition("groups:\n")
    return _HEADER + textwrap.indent(groups + rules, "  ")


def _in_words(summary: str) -> str:
    """Return a summary without its template: names in place of values."""
    return re.sub(r"{{ \$(?:labels\.)?(\w+)[^}]*}}", r"*\1*", summary)
