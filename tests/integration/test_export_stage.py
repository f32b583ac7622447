"""evaluate, export-onnx and transcribe on real artifacts of a small corpus, with an untrained student."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.cli.main import run
from mvqkd.config import EvaluateConfig, ExportOnnxConfig, ExtractTeacherConfig, PrepareDataConfig
from mvqkd.data.cuts import load_cuts
from mvqkd.data.prepare import prepare_data
from mvqkd.data.text import normalize_text
from mvqkd.decode.evaluate import UTTERANCES_FILE, evaluate
from mvqkd.decode.report import WerReport
from mvqkd.decode.scoring import word_errors
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ConfigError, EmptyCutSetError, ExportParityError
from mvqkd.export.stage import export_onnx
from mvqkd.teacher.extract import extract_teacher
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import commit_student, talkative_student


@dataclass(frozen=True)
class Chain:
    root: Path
    data: Artifact
    student: Artifact
    report: Artifact
    bundle: Artifact


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("chain")
    manifest = make_corpus(root / "corpus", 24)
    data = prepare_data(PrepareDataConfig(source="manifest", manifest=str(manifest), test_share=0.4), out=root / "data")
    student = commit_student(talkative_student(int(data.facts["vocab_size"])), root / "student", data)
    report = evaluate(
        EvaluateConfig(bootstrap_samples=500, device="cpu"), data=data.path, student=student.path, out=root / "wer"
    )
    bundle = export_onnx(ExportOnnxConfig(), data=data.path, student=student.path, out=root / "bundle")
    return Chain(root, data, student, report, bundle)


def test_evaluate_scores_every_decoder_on_every_utterance(chain: Chain) -> None:
    report = WerReport.load(chain.report.path)
    assert [row.name for row in report.rows] == ["torch/greedy", "torch/modified_beam_search", "torch/ctc_greedy"]
    cuts = {cut.id: cut for cut in load_cuts(chain.data, "test")}
    assert [utterance.id for utterance in report.utterances] == list(cuts)
    assert report.references() == [cut.supervisions[0].text for cut in cuts.values()]
    assert report.test_set_sha256 == chain.data.facts["test_set_sha256"]["test"]
    assert chain.report.parents == {"cut-manifest": chain.data.id, "student-checkpoint": chain.student.id}
    figures = chain.report.figures
    greedy = report.row("greedy", "torch")
    assert greedy is not None
    assert figures["wer"] == greedy.wer
    assert figures["rows"]["ctc_greedy"]["rtf"] > 0
    assert figures["num_utterances"] == len(cuts) > 3


def test_the_teacher_is_scored_beside_its_student(chain: Chain, tmp_path: Path) -> None:
    embeddings = extract_teacher(
        ExtractTeacherConfig(num_frames=20, layer=1, device="cpu"), data=chain.data.path, out=tmp_path / "embeddings"
    )
    rows = {}
    for wanted in (True, False):
        artifact = evaluate(
            EvaluateConfig(decoders=["greedy"], teacher_wer=wanted, bootstrap_samples=100, device="cpu"),
            data=chain.data.path,
            student=chain.student.path,
            out=tmp_path / f"wer-{wanted}",
            teacher_embeddings=embeddings.path,
        )
        rows[wanted] = [row.name for row in WerReport.load(artifact.path).rows]
        assert (artifact.parents.get("teacher-embeddings") == embeddings.id) is wanted
        assert (artifact.facts["teacher_id"] == embeddings.facts["teacher_id"]) is wanted
        # The headline stays the student's.
        assert artifact.figures["wer"] == chain.report.figures["wer"]
    assert rows == {True: ["torch/greedy", "teacher"], False: ["torch/greedy"]}
    report = WerReport.load(tmp_path / "wer-True")
    teacher = report.row("teacher", "teacher")
    assert teacher is not None
    # Whisper hears something in these buzzes; whatever it is, it must have been normalised before scoring.
    assert any(report.texts(teacher))
    assert all(text == normalize_text(text) for text in report.texts(teacher))


def test_alignments_give_the_counts_of_the_report(chain: Chain) -> None:
    report = WerReport.load(chain.report.path)
    lines = [json.loads(line) for line in (chain.report.path / UTTERANCES_FILE).read_text().splitlines()]
    assert [line["id"] for line in lines] == [utterance.id for utterance in report.utterances]
    for row in report.rows:
        pairs = [pair for line in lines for pair in line["alignments"][row.name]]
        assert row.insertions == sum(ref is None for ref, _ in pairs)
        assert row.deletions == sum(hyp is None for _, hyp in pairs)
        assert row.substitutions == sum(None not in pair and pair[0] != pair[1] for pair in pairs)


def test_the_bundle_has_the_agreed_layout_and_describes_itself(chain: Chain) -> None:
    parts = ("encoder", "decoder", "joiner")
    assert set(chain.bundle.files) == {
        *(f"{variant}/{part}.onnx" for variant in ("offline", "streaming") for part in (*parts, "encoder.int8")),
        *("ctc/model.onnx", "ctc/model.int8.onnx", "offline.conf", "streaming.conf", "ctc.conf"),
        *("tokens.txt", "bundle.json", "README.md", "parity.json", "wer.json"),
    }
    described = json.loads((chain.bundle.path / "bundle.json").read_text())
    for name, entry in described["files"].items():
        assert entry == chain.bundle.files[name]
    assert set(described["files"]) == set(chain.bundle.files) - {"bundle.json", "README.md"}
    assert described["lineage"] == {"cut-manifest": chain.data.id, "student-checkpoint": chain.student.id}
    graphs = {name for kind in described["variants"].values() for parts in kind.values() for name in parts.values()}
    assert graphs == {name for name in chain.bundle.files if name.endswith(".onnx")}
    assert described["text_normalizer"] == chain.bundle.facts["text_normalizer"] == "upper-ascii-1"


def test_the_wer_of_record_is_the_bundles_and_equals_torchs(chain: Chain) -> None:
    shipped, torch_report = WerReport.load(chain.bundle.path), WerReport.load(chain.report.path)
    assert [row.name for row in shipped.rows] == [
        f"{runtime}/{decoder}"
        for end in ("", "-int8")
        for runtime, decoder in (
            (f"onnxruntime{end}", "greedy"),
            (f"onnxruntime-streaming{end}", "greedy"),
            (f"onnxruntime{end}", "ctc_greedy"),
        )
    ]
    record, greedy = shipped.row("greedy", "onnxruntime"), torch_report.row("greedy", "torch")
    assert record is not None
    assert greedy is not None
    assert shipped.texts(record) == torch_report.texts(greedy)
    ctc, torch_ctc = shipped.row("ctc_greedy", "onnxruntime"), torch_report.row("ctc_greedy", "torch")
    assert ctc is not None
    assert torch_ctc is not None
    assert shipped.texts(ctc) == torch_report.texts(torch_ctc)
    assert any(shipped.texts(record)), "a student that says nothing proves nothing"
    errors = sum(word_errors(u.ref, u.hyp[record.name]).errors for u in shipped.utterances)
    assert record.wer == errors / shipped.num_words == chain.bundle.figures["wer_onnx"]
    assert shipped.test_set_sha256 == torch_report.test_set_sha256


def test_parity_and_agreement_are_reported(chain: Chain) -> None:
    parity = json.loads((chain.bundle.path / "parity.json").read_text())
    assert parity["ok"] is True
    assert len(parity["cases"]) > 30
    count = chain.bundle.figures["test_utterances"]
    assert set(parity["sherpa"]["variants"]) == {"offline", "streaming", "ctc"}
    for agreement in parity["sherpa"]["variants"].values():
        assert agreement == {"utterances": count, "equal": count, "disagreements": []}
    figures = chain.bundle.figures
    assert set(figures["sherpa_agreement"].values()) == {1.0}
    assert 0 < figures["max_difference"] < 1e-3
    assert figures["rtf_onnx"] > 0


def test_no_time_and_no_path_of_this_machine_is_in_the_bundle(chain: Chain) -> None:
    for name in chain.bundle.files:
        data = (chain.bundle.path / name).read_bytes()
        assert str(chain.root).encode() not in data, name
    assert '"rtf": null' in (chain.bundle.path / "wer.json").read_text()


def test_exporting_and_evaluating_again_gives_the_same_ids(chain: Chain) -> None:
    again = export_onnx(
        ExportOnnxConfig(), data=chain.data.path, student=chain.student.path, out=chain.root / "bundle-again"
    )
    assert again.id == chain.bundle.id
    report = evaluate(
        EvaluateConfig(bootstrap_samples=500, device="cpu"),
        data=chain.data.path,
        student=chain.student.path,
        out=chain.root / "wer-again",
    )
    assert report.id == chain.report.id


def test_a_bundle_that_fails_parity_is_not_written(chain: Chain, tmp_path: Path) -> None:
    strict = ExportOnnxConfig(max_difference=1e-12, int8=False)
    with pytest.raises(ExportParityError, match=r"expected torch and onnxruntime to differ by at most 1e-12, got \d"):
        export_onnx(strict, data=chain.data.path, student=chain.student.path, out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_another_lineage_are_refused(chain: Chain, tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", 12, seed=1)
    other = prepare_data(
        PrepareDataConfig(source="manifest", manifest=str(manifest), test_share=0.4), out=tmp_path / "data"
    )
    for stage, config in ((evaluate, EvaluateConfig()), (export_onnx, ExportOnnxConfig())):
        with pytest.raises(ArtifactMismatchError, match=other.short_id):
            stage(config, data=other.path, student=chain.student.path, out=tmp_path / "out")


def test_an_unknown_split_names_the_known_ones(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(EmptyCutSetError, match="test, train"):
        evaluate(EvaluateConfig(split="tset"), data=chain.data.path, student=chain.student.path, out=tmp_path / "out")


def test_no_decoder_is_a_config_error(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one decoder"):
        evaluate(EvaluateConfig(decoders=[]), data=chain.data.path, student=chain.student.path, out=tmp_path / "out")


def audio_of(chain: Chain) -> list[Path]:
    return sorted((chain.root / "corpus" / "audio").glob("*.wav"))


def test_transcribe_prints_the_text_of_record(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    report = WerReport.load(chain.bundle.path)
    record = report.row("greedy", "onnxruntime")
    assert record is not None
    expected = {utterance.id: utterance.hyp[record.name] for utterance in report.utterances}
    files = [path for path in audio_of(chain) if path.stem in expected]
    assert len(files) == len(expected)
    code = run(["transcribe", "--bundle", str(chain.bundle.path), "--format", "jsonl", *map(str, files)])
    assert code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"audio", "text", "duration_s", "rtf", "tokens", "times_s", "words"} <= set(row) for row in rows)
    assert len(rows) == len(files)
    assert {Path(row["audio"]).stem: row["text"] for row in rows} == expected
    assert all(row["duration_s"] > 0.5 and row["rtf"] > 0 for row in rows)


def test_transcribe_goes_on_after_a_bad_file_and_says_so(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = audio_of(chain)[0]
    (tmp_path / "bad.wav").write_bytes(b"RIFF no audio")
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "bad.wav", tmp_path / "missing.wav", tmp_path / "empty", good]
    code = run(["transcribe", "--bundle", str(chain.bundle.path), "--int8", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 1
    assert len(printed.out.splitlines()) == 1
    complaints = [line for line in printed.err.splitlines() if line.startswith("mvqkd transcribe: ")]
    assert [re.search(r"bad\.wav|missing\.wav|empty", line)[0] for line in complaints] == [
        *("bad.wav", "missing.wav", "empty")
    ]
    assert f"{good}: " in printed.err
    assert "RTF" in printed.err


def test_transcribe_searches_folders(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    # The corpus folder also holds its manifest, which is no audio.
    code = run(["transcribe", "--bundle", str(chain.bundle.path), "--format", "jsonl", str(chain.root / "corpus")])
    assert code == 0
    audio = [json.loads(line)["audio"] for line in capsys.readouterr().out.splitlines()]
    assert audio == [str(path) for path in audio_of(chain)]


def test_transcribe_refuses_a_bundle_whose_bytes_changed(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(chain.bundle.path, bundle)
    graph = bundle / "offline" / "joiner.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ArtifactCorruptError):
        load_artifact(bundle, "onnx-bundle")
    assert run(["transcribe", "--bundle", str(bundle), str(audio_of(chain)[0])]) == 1
    assert "offline/joiner.onnx" in capsys.readouterr().err


def test_transcribe_loads_neither_torch_nor_training_code(chain: Chain) -> None:
    program = (
        "import sys; from mvqkd.cli.main import run; code = run(sys.argv[1:]);"
        "print(sorted({'torch', 'torchaudio', 'lhotse', 'mlflow', 'sentencepiece', 'onnx'} & set(sys.modules)));"
        "sys.exit(code)"
    )
    command = ["transcribe", "--bundle", str(chain.bundle.path), str(audio_of(chain)[0])]
    result = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_readmes_command_works_as_it_stands(chain: Chain, tmp_path: Path) -> None:
    card = (chain.bundle.path / "README.md").read_text()
    command = next(block for block in re.findall(r"```sh\n(.*?)```", card, re.DOTALL) if block.startswith("python"))
    wav = audio_of(chain)[0]
    shell = command.replace("python -c", f"{sys.executable} -c").replace("FILE.wav", str(wav))
    result = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True, cwd=chain.bundle.path)
    ours = subprocess.run(
        [sys.executable, "-m", "mvqkd", "transcribe", "--bundle", str(chain.bundle.path), str(wav)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout.strip() == ours.stdout.strip() != ""


def test_tokens_that_do_not_fit_the_student_are_refused(chain: Chain, tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "student", "student-checkpoint", stage="s", config={}, parents=[chain.data])
    for name in chain.student.files:
        shutil.copyfile(chain.student.path / name, partial.path / name)
    with (partial.path / "tokens.txt").open("a") as stream:
        stream.write(f"# {chain.student.facts['vocab_size']}\n")
    student = partial.commit(facts=chain.student.facts)
    with pytest.raises(ArtifactMismatchError, match=r"symbols in tokens\.txt"):
        evaluate(EvaluateConfig(), data=chain.data.path, student=student.path, out=tmp_path / "out")
