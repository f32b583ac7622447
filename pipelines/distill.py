"""The pipeline from recordings to a registered student: which component's output is which one's input.

Every stage gets its section of params.yaml as a JSON string, read by the same loader as everywhere else. (A
Kubeflow ``dict`` parameter would turn its integers into floats.) ``{}`` means the defaults of that section.

Kubeflow may reuse the output of an earlier run of a stage whose inputs are the same, except for gate and promote,
which depend on the registry's state. It cannot see that files behind an unchanged path in the prepare-data section
changed: submit such a run with caching off.
"""

from kfp import dsl

from components.encode_ci.component import encode_ci
from components.evaluate.component import evaluate
from components.export_onnx.component import export_onnx
from components.extract_teacher.component import extract_teacher
from components.fit_quantizer.component import fit_quantizer
from components.gate.component import gate
from components.prepare_data.component import prepare_data
from components.promote.component import promote
from components.train_student.component import train_student


@dsl.pipeline(
    name="mvqkd-distill",
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
) -> None:
    """Distil a teacher into a student; each argument is one section of params.yaml as JSON."""
    data = prepare_data(config=prepare_data_config).outputs["data"]
    embeddings = extract_teacher(config=extract_teacher_config, data=data).outputs["teacher_embeddings"]
    quantizer = fit_quantizer(config=fit_quantizer_config, teacher_embeddings=embeddings).outputs["quantizer"]
    indexes = encode_ci(config=encode_ci_config, data=data, teacher_embeddings=embeddings, quantizer=quantizer).outputs[
        "codebook_indexes"
    ]
    student = train_student(
        config=train_student_config,
        data=data,
        codebook_indexes=indexes,
        quantizer=quantizer,
        teacher_embeddings=embeddings,
    ).outputs["student"]
    report = evaluate(config=evaluate_config, data=data, student=student, teacher_embeddings=embeddings).outputs[
        "wer_report"
    ]
    bundle = export_onnx(config=export_onnx_config, data=data, student=student).outputs["bundle"]
    judged = gate(
        config=gate_config, promote_config=promote_config, bundle=bundle, wer_report=report, quantizer=quantizer
    ).set_caching_options(False)

    # The stage itself obeys the decision it is given; the two branches show on the graph which way a run went.
    lineage = {
        "config": promote_config,
        "decision": judged.outputs["decision"],
        "bundle": bundle,
        "wer_report": report,
        "student": student,
        "data": data,
        "codebook_indexes": indexes,
        "quantizer": quantizer,
        "teacher_embeddings": embeddings,
    }
    with dsl.If(judged.outputs["verdict"] == "promote", name="beats-the-champion"):
        promote(**lineage).set_display_name("promote").set_caching_options(False)
    with dsl.Else(name="rejected"):
        promote(**lineage).set_display_name("record-rejected").set_caching_options(False)
