"""The part of the pipeline that exports the student, scores it on every test set and asks the gate.

A pipeline of its own for the reasons that ``pipelines.shards`` gives.
"""

from typing import List, NamedTuple  # noqa: UP035  # kfp compares with it

from kfp import dsl

from components.evaluate.component import evaluate
from components.export_onnx.component import export_onnx
from components.gate.component import gate
from pipelines.cluster import ClusterConfig
from pipelines.settle import settle


class Judgement(NamedTuple):
    """Outputs of this part."""

    verdict: str
    bundle: dsl.Model
    bundle_id: str
    decision: dsl.Artifact
    decision_id: str
    wer_report: dsl.Artifact
    wer_report_id: str


def judge_on(cluster: ClusterConfig) -> dsl.graph_component.GraphComponent:
    """``judge`` with a cluster's settings."""

    @dsl.pipeline(name="judge", description="Export the student, score it on every test set, let the gate decide.")
    def judge(
        export_onnx_config: str,
        evaluate_config: str,
        gate_config: str,
        promote_config: str,
        test_splits: List[str],  # noqa: UP006 # as above
        data: dsl.Input[dsl.Dataset],
        data_id: str,
        student: dsl.Input[dsl.Model],
        student_id: str,
        teacher_embeddings: dsl.Input[dsl.Dataset],
        teacher_embeddings_id: str,
        quantizer: dsl.Input[dsl.Model],
        quantizer_id: str,
    ) -> Judgement:
        exported = export_onnx(
            config=export_onnx_config, data=data, data_id=data_id, student=student, student_id=student_id
        )
        settle(exported, cluster, "export-onnx")
        bundle, bundle_id = exported.outputs["bundle"], exported.outputs["artifact_id"]
        with dsl.ParallelFor(test_splits, name="test-sets") as split:
            scored = evaluate(
                config=evaluate_config,
                split=split,
                data=data,
                data_id=data_id,
                student=student,
                student_id=student_id,
                teacher_embeddings=teacher_embeddings,
                teacher_embeddings_id=teacher_embeddings_id,
            )
            settle(scored, cluster, "evaluate")
        judged = gate(
            config=gate_config,
            promote_config=promote_config,
            bundle=bundle,
            bundle_id=bundle_id,
            wer_reports=dsl.Collected(scored.outputs["wer_report"]),
            wer_report_ids=dsl.Collected(scored.outputs["artifact_id"]),
            quantizer=quantizer,
            quantizer_id=quantizer_id,
        )
        # It depends on the registry, which no cache sees.
        settle(judged, cluster, "gate").set_caching_options(False)
        return Judgement(
            verdict=judged.outputs["verdict"],
            bundle=bundle,
            bundle_id=bundle_id,
            decision=judged.outputs["decision"],
            decision_id=judged.outputs["artifact_id"],
            wer_report=judged.outputs["wer_report"],
            wer_report_id=judged.outputs["wer_report_id"],
        )

    return judge
