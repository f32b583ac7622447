"""export-onnx as a Kubeflow component."""

from typing import NamedTuple

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export_onnx(
    config: str,
    data: dsl.Input[dsl.Dataset],
    data_id: str,
    student: dsl.Input[dsl.Model],
    student_id: str,
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", artifact_id=str):
    """Export the student for onnxruntime and sherpa-onnx, prove parity, score what ships.

    Args:
        config: section export-onnx as JSON.
        data: cut-manifest.
        data_id: its content id.
        student: student-checkpoint.
        student_id: its content id.
        bundle: the onnx-bundle that is written.
        metrics: its figures.

    Returns:
        artifact_id: its content id.
    """
    from mvqkd.adapters.kubeflow import run_stage

    inputs = {"data": (data, data_id), "student": (student, student_id)}
    artifact = run_stage("export-onnx", config, inputs=inputs, output=bundle, metrics=metrics)
    return (artifact.id,)
