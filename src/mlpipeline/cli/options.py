"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG, DEFAULT_WORKSPACE = Path("configs/default.yaml"), Path("workspace")

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration file.")]
Workspace = Annotated[Path, typer.Option(help="The folder of all artifacts.")]
Among = Annotated[
    str,
    typer.Option(help="Names of the candidates that count, separated by commas; empty for all."),
]
