"""export-onnx as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export_onnx(
    config: str,
    data: dsl.Input[dsl.Dataset],
    student: dsl.Input[dsl.Model],
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Export the student for onnxruntime and sherpa-onnx, prove parity, score what ships.

    Args:
        config: section export-onnx as JSON.
        data: cut-manifest.
        student: student-checkpoint.
        bundle: the onnx-bundle that is written.
        metrics: its figures.
    """
    from pathlib import Path

    from mvqkd.config import ExportOnnxConfig, section_from_json
    from mvqkd.export.stage import export_onnx

    artifact = export_onnx(
        section_from_json(ExportOnnxConfig, config),
        data=Path(data.path),
        student=Path(student.path),
        out=Path(bundle.path),
    )
    bundle.metadata.update(artifact.metadata)
    for name, value in artifact.scalar_figures.items():
        metrics.log_metric(name, value)
