"""prepare-data as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_data(
    config: str,
    data: dsl.Output[dsl.Dataset],
) -> None:
    """Turn recordings and transcripts into checked cuts, splits and tokens.

    Args:
        config: section prepare-data as JSON.
        data: the cut-manifest that is written.
    """
    from pathlib import Path

    from mvqkd.config import PrepareDataConfig, section_from_json
    from mvqkd.data.prepare import prepare_data

    artifact = prepare_data(
        section_from_json(PrepareDataConfig, config),
        out=Path(data.path),
    )
    data.metadata.update(artifact.metadata)
