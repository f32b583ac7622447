"""Kubeflow pipelines: wiring of components and nothing else."""
