"""An end-to-end machine-learning pipeline whose steps run locally and on Kubernetes unchanged."""
