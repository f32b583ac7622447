"""prepare-data as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_data(
    config: str,
    data: dsl.Output[dsl.Dataset],
    source_id: str = "",
) -> NamedTuple("Outputs", artifact_id=str):
    """Turn recordings and transcripts into checked cuts, splits and tokens.

    Args:
        config: section prepare-data as JSON.
        source_id: anything that changes when the recordings behind an unchanged path do; part of the cache's key only.
        data: the cut-manifest that is written.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    artifact = run_stage("prepare-data", config, output=data)
    return (artifact.id,)
