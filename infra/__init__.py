"""Kubernetes manifests, and what holds them to their rules: ``python -m infra.check``."""
