"""The push of codebook indexes to a DVC remote as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def push_ci(
    codebook_indexes: dsl.Input[dsl.Dataset],
    codebook_indexes_id: str,
    remote: str,
) -> NamedTuple("Outputs", dvc_id=str):
    """Push codebook indexes to a DVC remote, from which `mvqkd pull` gets them back by their content id.

    Args:
        codebook_indexes: codebook-indexes.
        codebook_indexes_id: its content id.
        remote: URL of the remote, without credentials.

    Returns:
        dvc_id: DVC's content id of the directory.
    """
    from mvqkd.adapters.kubeflow import push_indexes

    return (push_indexes((codebook_indexes, codebook_indexes_id), remote),)
