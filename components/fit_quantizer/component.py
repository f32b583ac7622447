"""fit-quantizer as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fit_quantizer(
    config: str,
    teacher_embeddings: dsl.Input[dsl.Dataset],
    quantizer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Fit the multi-codebook quantizer to those embeddings.

    Args:
        config: section fit-quantizer as JSON.
        teacher_embeddings: teacher-embeddings.
        quantizer: the quantizer that is written.
        metrics: its figures.
    """
    from pathlib import Path

    from mvqkd.config import FitQuantizerConfig, section_from_json
    from mvqkd.quantizer.fit_stage import fit_quantizer

    artifact = fit_quantizer(
        section_from_json(FitQuantizerConfig, config),
        teacher_embeddings=Path(teacher_embeddings.path),
        out=Path(quantizer.path),
    )
    quantizer.metadata.update(artifact.metadata)
    for name, value in artifact.scalar_figures.items():
        metrics.log_metric(name, value)
