"""`python -m mlpipeline STEP ...`: the command that every process and every pod runs."""

from mlpipeline.cli.app import main

main()
