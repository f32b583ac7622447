"""Give a task of the pipeline what a cluster's settings say of its step."""

from __future__ import annotations

from kfp import dsl, kubernetes

from pipelines.cluster import ClusterConfig


def settle(task: dsl.PipelineTask, cluster: ClusterConfig, step: str) -> dsl.PipelineTask:
    """Set image, resources, place, secrets, volume, rights and retries of a task; returns it."""
    settings = cluster.steps[step]
    task.set_container_image(cluster.image)
    task.set_cpu_request(settings.cpu_request).set_cpu_limit(settings.cpu_limit)
    task.set_memory_request(settings.memory_request).set_memory_limit(settings.memory_limit)
    if settings.accelerator is not None:
        task.set_accelerator_type(settings.accelerator).set_accelerator_limit(settings.accelerator_count)
    if settings.retry is not None and settings.retry.attempts:
        task.set_retry(
            settings.retry.attempts,
            backoff_duration=settings.retry.backoff,
            backoff_factor=settings.retry.factor,
            backoff_max_duration=settings.retry.max_backoff,
        )
    for name, value in cluster.environment.items():
        task.set_env_variable(name, value)
    _settle_on_kubernetes(task, cluster, step)
    return task


def _settle_on_kubernetes(task: dsl.PipelineTask, cluster: ClusterConfig, step: str) -> None:
    settings = cluster.steps[step]
    for label, value in settings.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in settings.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    if settings.timeout is not None:
        kubernetes.set_timeout(task, _seconds(settings.timeout))
    for secret in cluster.secrets:
        if step in secret.steps:
            kubernetes.use_secret_as_env(task, secret.name, secret.keys, optional=secret.optional)
    if cluster.shared is not None and step in cluster.shared.steps:
        kubernetes.mount_pvc(task, cluster.shared.claim, cluster.shared.mount_path)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.image_pull_secrets)
    kubernetes.set_security_context(task, run_as_user=cluster.user, run_as_group=cluster.user, run_as_non_root=True)


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]
