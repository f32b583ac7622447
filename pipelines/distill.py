"""The pipeline from recordings to a registered student: which component's output is which one's input.

Every stage gets its section of params.yaml as a JSON string, read by the same loader as everywhere else. (A Kubeflow
``dict`` parameter would turn its integers into floats.) ``{}`` means the defaults of that section.

Beside every artifact travels its content id, as a parameter. Kubeflow's cache compares parameters and does not look
into artifacts, so that a step is reused exactly when what it reads has the same content. Gate, promote and notify
depend on the world outside and are never reused. What the first step reads lies outside as well: ``source_id`` is to
change when the recordings behind an unchanged path do, else submit with caching off.
"""

from kfp import dsl

from components.extract_teacher.component import extract_teacher
from components.fit_quantizer.component import fit_quantizer
from components.notify.component import notify
from components.prepare_data.component import prepare_data
from components.promote.component import promote
from components.push_ci.component import push_ci
from components.train_student.component import train_student
from pipelines.cluster import ClusterConfig
from pipelines.judgement import judge_on
from pipelines.settle import settle
from pipelines.shards import encode_in_shards_on

NAME = "mvqkd-distill"


def distill_on(cluster: ClusterConfig) -> dsl.graph_component.GraphComponent:
    """The pipeline with a cluster's settings."""
    encode_in_shards, judge = encode_in_shards_on(cluster), judge_on(cluster)

    @dsl.pipeline(
        name=NAME,
        description="Distil a speech teacher into a small ONNX student and promote it if it beats the champion.",
    )
    def distill(
        prepare_data_config: str = "{}",
        extract_teacher_config: str = "{}",
        fit_quantizer_config: str = "{}",
        encode_ci_config: str = "{}",
        train_student_config: str = "{}",
        evaluate_config: str = "{}",
        export_onnx_config: str = "{}",
        gate_config: str = "{}",
        promote_config: str = "{}",
        launch_config: str = "{}",
        source_id: str = "",
        num_shards: int = 1,
        test_splits: list[str] = ["test"],  # noqa: B006  # Kubeflow reads it, nobody calls this twice
        dvc_remote: str = "",
    ) -> None:
        """Distil a teacher into a student.

        Args:
            prepare_data_config: section prepare-data as JSON; the others alike.
            launch_config: how training is started: inprocess, torchrun or trainjob, and its settings, as JSON.
            source_id: changes when the recordings behind an unchanged path do.
            num_shards: pods that share encode-ci; docs/scale.md says how to choose it.
            test_splits: splits to evaluate on; export-onnx.split, which the gate judges, must be among them.
            dvc_remote: where codebook indexes are pushed to; empty: nowhere.
        """
        ending = notify(pipeline=NAME, pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        settle(ending, cluster, "notify").set_caching_options(False)
        with dsl.ExitHandler(ending, name="student"):
            prepared = settle(prepare_data(config=prepare_data_config, source_id=source_id), cluster, "prepare-data")
            data = _passed(prepared, "data")
            extracted = settle(extract_teacher(config=extract_teacher_config, **data), cluster, "extract-teacher")
            embeddings = _passed(extracted, "teacher_embeddings")
            fitted = settle(fit_quantizer(config=fit_quantizer_config, **embeddings), cluster, "fit-quantizer")
            quantizer = _passed(fitted, "quantizer")

            encoded = encode_in_shards(
                config=encode_ci_config, num_shards=num_shards, **data, **embeddings, **quantizer
            )
            indexes = encoded.outputs
            with dsl.If(dvc_remote != "", name="remote-given"):
                settle(push_ci(remote=dvc_remote, **indexes), cluster, "push-ci")

            trained = train_student(
                config=train_student_config, launch=launch_config, **data, **indexes, **quantizer, **embeddings
            )
            student = _passed(settle(trained, cluster, "train-student"), "student")
            judged = judge(
                export_onnx_config=export_onnx_config,
                evaluate_config=evaluate_config,
                gate_config=gate_config,
                promote_config=promote_config,
                test_splits=test_splits,
                **data,
                **student,
                **embeddings,
                **quantizer,
            )

            # The stage itself obeys the decision it is given; the two branches show on the graph which way a run went.
            verdict = judged.outputs["verdict"]
            judged_by = {name: channel for name, channel in judged.outputs.items() if name != "verdict"}
            lineage = {**judged_by, **student, **data, **indexes, **quantizer, **embeddings}
            run = {"config": promote_config, "pipeline_run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
            with dsl.If(verdict == "promote", name="beats-the-champion"):
                settle(promote(**run, **lineage), cluster, "promote").set_caching_options(False)
            with dsl.Else(name="rejected"):
                recording = settle(promote(**run, **lineage), cluster, "promote")
                recording.set_display_name("record-rejected").set_caching_options(False)

    return distill


def _passed(task: dsl.PipelineTask, name: str) -> dict[str, dsl.pipeline_channel.PipelineChannel]:
    """An output as the components after it take it: the artifact, and its content id as a parameter."""
    return {name: task.outputs[name], f"{name}_id": task.outputs["artifact_id"]}


distill = distill_on(ClusterConfig())
