"""encode-ci as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def encode_ci(
    config: str,
    data: dsl.Input[dsl.Dataset],
    teacher_embeddings: dsl.Input[dsl.Dataset],
    quantizer: dsl.Input[dsl.Model],
    codebook_indexes: dsl.Output[dsl.Dataset],
) -> None:
    """Run teacher and quantizer over the training cuts: codebook indexes (CI), a few bytes a frame.

    Args:
        config: section encode-ci as JSON.
        data: cut-manifest.
        teacher_embeddings: teacher-embeddings.
        quantizer: quantizer.
        codebook_indexes: the codebook-indexes that is written.
    """
    from pathlib import Path

    from mvqkd.codebook.encode import encode_ci
    from mvqkd.config import EncodeCiConfig, section_from_json

    artifact = encode_ci(
        section_from_json(EncodeCiConfig, config),
        data=Path(data.path),
        teacher_embeddings=Path(teacher_embeddings.path),
        quantizer=Path(quantizer.path),
        out=Path(codebook_indexes.path),
    )
    codebook_indexes.metadata.update(artifact.metadata)
