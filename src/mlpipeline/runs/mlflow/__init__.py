"""MLflow: runs and models as entries of a tracking server, made from the records of runs."""
