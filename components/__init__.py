"""Typed Kubeflow components: one a stage, each a call of the stage's library function. No ML lives here."""
