"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlpipeline.store import layout

DEFAULT_CONFIG = Path("configs/default.yaml")
DEFAULT_WORKSPACE = layout.Workspace(Path("workspace"))

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration file.")]
Workspace = Annotated[
    layout.Workspace,
    typer.Option(
        parser=layout.Workspace.parse, metavar="DIRECTORY", help="The folder of all artifacts."
    ),
]
Looked = Annotated[
    int, typer.Option(min=1, help="How many images of requests to look at: the newest ones.")
]
Hours = Annotated[
    float | None, typer.Option(min=0, help="How old they may be; by default any age.")
]
FalseAlarms = Annotated[
    float,
    typer.Option(min=1e-4, max=0.5, help="The share of looks that may find what is not there."),
]
Among = Annotated[
    str,
    typer.Option(help="Names of the candidates that count, separated by commas; empty for all."),
]
