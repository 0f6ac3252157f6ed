"""The pipeline as Argo Workflows, authored in Hera. `make render` writes the YAML files."""
