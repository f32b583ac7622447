"""Typed parameters: one frozen model a stage, one section of params.yaml each.

A section's name is the dvc ``params:`` key and the CLI subcommand. Unknown keys are refused with the nearest
known one; range checks name the field. Beside every default stands its reason. Importing this module loads
neither torch nor lhotse.

One long module on purpose: it is the table of all parameters, which people search from top to bottom, and every
dvc stage depends on it whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mvqkd.errors import ConfigError

Objective = Literal["none", "l1", "l2", "mvq"]
Decoder = Literal["greedy", "modified_beam_search", "ctc_greedy"]
Schedule = Literal["cosine", "noam", "eden"]


def _distinct_chunks(chunks: list[int]) -> list[int]:
    if any(frames < 0 for frames in chunks) or len(set(chunks)) != len(chunks):
        raise ValueError("chunk sizes must be 0 or more student frames and must not repeat")
    return chunks


# Student frames; 0 is the whole utterance.
ChunkSizes = Annotated[list[int], AfterValidator(_distinct_chunks)]


class Section(BaseModel):
    """Base of every section: frozen, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    section: ClassVar[str]


class PrepareDataConfig(Section):
    section: ClassVar[str] = "prepare-data"

    source: Literal["asterisk", "librispeech", "cuts", "manifest"] = Field(
        "asterisk",
        description="where recordings come from; asterisk: 551 human prompts from Debian packages, no account",
    )
    corpus_dir: str | None = Field(None, description="LibriSpeech directory (source librispeech)")
    manifest: str | None = Field(None, description="JSON lines of audio, text[, speaker, split, id] (source manifest)")
    cuts: str | None = Field(None, description="lhotse CutSet, .jsonl or .jsonl.gz (source cuts)")
    split_by: Literal["speaker", "prompt"] = Field(
        "prompt", description="what must not be shared by train and test; the default corpus has one speaker"
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="share of speakers or prompts hashed into test")
    dev_share: float = Field(0.0, ge=0, lt=1, description="share hashed into dev; 0: no dev split")
    split_seed: int = Field(0, ge=0, description="changes the hash that splits; the split never depends on order")
    min_duration_s: float = Field(0.3, gt=0, description="shorter recordings carry less than a word")
    max_duration_s: float = Field(
        30.0, gt=0, description="longer ones exceed the teachers' windows: segment them first"
    )
    min_rms_db: float = Field(-60.0, le=0, description="quieter than this over the whole recording is silence")
    max_rejected_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="more unusable recordings than this stop the stage: the corpus is not what it should be",
    )
    token_type: Literal["bpe", "char"] = Field(
        "char", description="characters need no training text, the default is tiny"
    )
    vocab_size: int = Field(500, ge=8, le=10_000, description="BPE pieces; 500 is usual for LibriSpeech")
    text_normalizer: Literal["upper-ascii-1"] = Field(
        "upper-ascii-1", description="versioned: WERs compare only under the same normaliser"
    )

    @model_validator(mode="after")
    def _source_has_its_path(self) -> PrepareDataConfig:
        needed = {"librispeech": "corpus_dir", "manifest": "manifest", "cuts": "cuts"}.get(self.source)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"source {self.source} needs {needed}: pass --{needed.replace('_', '-')} PATH")
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError("min_duration_s must be below max_duration_s")
        if self.test_share + self.dev_share >= 1:
            raise ValueError("test_share + dev_share must leave something to train on")
        return self


class ExtractTeacherConfig(Section):
    section: ClassVar[str] = "extract-teacher"

    teacher: str = Field(
        "whisper-tiny.en",
        description="whisper-tiny.en (embedded), a torchaudio bundle (HUBERT_BASE, WAVLM_LARGE, ...), hf:DIRECTORY "
        "(transformers) or ct2:DIRECTORY (a Whisper of CTranslate2)",
    )
    layer: int = Field(
        3, ge=1, description="1-based encoder layer; middle layers carry phones, the last one the decoder's needs"
    )
    checkpoint_dir: str | None = Field(
        None, description="where torchaudio checkpoints lie; default: the torch hub cache"
    )
    num_frames: int = Field(
        40_000, ge=1, description="frames sampled to fit the quantizer; bounds memory whatever the corpus"
    )
    split: str = Field("train", description="split whose frames are sampled; never the test split")
    seed: int = Field(0, ge=0, description="seeds the reservoir")
    batch_duration_s: float = Field(60.0, gt=0, description="audio seconds a teacher batch")
    device: str = Field("auto", description="auto: cuda when there is one, else cpu")


class FitQuantizerConfig(Section):
    section: ClassVar[str] = "fit-quantizer"

    num_codebooks: int = Field(
        8, ge=1, le=64, description="bytes a teacher frame with 256 entries each; any number up to 64, odd ones too"
    )
    codebook_size: Literal[16, 256] = Field(
        256, description="entries a codebook; 256 fills a byte and is made of pairs of 16; 16 takes phase 1 alone"
    )
    phase_1_steps: int = Field(
        100,
        ge=0,
        description="steps with pairs of 16-entry codebooks: a quick start; more of them hurt real embeddings",
    )
    phase_2_steps: int = Field(
        600,
        ge=0,
        description="steps after the pairs are multiplied out into 256 entries; half a minute on two cores. The paper "
        "takes 10000 + 10000: lower the learning rates then",
    )
    batch_size: int = Field(512, ge=1, description="frames a step")
    learning_rate: float = Field(
        0.02, gt=0, description="Adam, phase 1; falls to 0 over the phase. The paper's 0.005 suits its 10000 steps"
    )
    phase_2_learning_rate: float = Field(
        0.03, gt=0, description="Adam, phase 2; an entry of 256 is chosen twice in a batch, so it needs large steps"
    )
    refine_iterations: int = Field(5, ge=0, le=20, description="refine passes at encoding; gains end at about 5")
    entropy_scale: float = Field(0.01, ge=0, description="weight of the logits' entropy deficit: keeps entries in use")
    held_out_share: float = Field(0.1, gt=0, lt=1, description="frames kept from fitting to report the error on")
    buffer_frames: int = Field(
        2**19,
        ge=1,
        description="frames in memory at most; of more, files are read anew for each epoch and shuffled in a buffer "
        "of so many: 1.25 GiB at 1280 channels in float16",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="factors of the logits' products while fitting; auto: bfloat16 where the processor has it, which "
        "takes a quarter of float32's time for them. The search for indexes is float32: bfloat16 cost it accuracy",
    )
    evaluate_every: int = Field(50, ge=0, description="steps between points of the held-out error curve; 0: none")
    patience: int = Field(
        0,
        ge=0,
        description="evaluations without improvement that end a phase, with its best weights; 0: none do. With a "
        "learning rate that falls to 0 the error falls to the end, so that an early stop saves little",
    )
    min_improvement: float = Field(0.001, ge=0, lt=1, description="share of the error that counts as an improvement")
    checkpoint_every_s: float = Field(60.0, ge=0, description="seconds between checkpoints: what a killed fit may lose")
    seed: int = Field(0, ge=0, description="initialisation and batch order")
    device: str = Field("auto", description="auto: cuda when there is one, else cpu")


class EncodeCiConfig(Section):
    section: ClassVar[str] = "encode-ci"

    splits: list[str] = Field(["train"], description="splits to encode; a student is trained on no other")
    speeds: list[float] = Field([0.9, 1.0, 1.1], description="speed-perturbed copies; each needs indexes of its own")
    mode: Literal["exact", "best", "fast"] = Field(
        "exact",
        description="best has a lower error at a quarter of the speed: worth it beside a big teacher",
    )
    shard_cuts: int = Field(200, ge=1, description="cuts a shard: what a killed run may lose")
    batch_duration_s: float = Field(60.0, gt=0, description="audio seconds a teacher batch")
    device: str = Field("auto", description="auto: cuda when there is one, else cpu")

    @model_validator(mode="after")
    def _sane_speeds(self) -> EncodeCiConfig:
        if not self.speeds or any(not 0.5 <= speed <= 2.0 for speed in self.speeds):
            raise ValueError("speeds must be a non-empty list of factors within 0.5 .. 2.0")
        if len(set(self.speeds)) != len(self.speeds):
            raise ValueError("speeds must not repeat")
        return self


class ModelConfig(Section):
    """Sizes of the student; part of train-student."""

    section: ClassVar[str] = "train-student.model"

    encoder_dim: int = Field(144, ge=16, description="width of the encoder")
    num_encoder_layers: int = Field(8, ge=1, description="Conformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads")
    feedforward_dim: int = Field(576, ge=16, description="inner width of the feed-forward modules")
    conv_kernel: int = Field(15, ge=3, description="taps of the causal depthwise convolution")
    chunk_frames: int = Field(
        16, ge=0, description="student frames a chunk; attention sees its chunk; 0: the whole utterance"
    )
    left_context_chunks: int = Field(4, ge=0, description="chunks of left context that attention sees")
    decoder_dim: int = Field(256, ge=16, description="width of the stateless predictor")
    context_size: int = Field(2, ge=1, le=4, description="symbols the predictor sees")
    joiner_dim: int = Field(256, ge=16, description="width of the joiner")
    dropout: float = Field(0.1, ge=0, lt=1, description="in every residual branch")

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.encoder_dim % self.num_heads:
            raise ValueError("encoder_dim must be a multiple of num_heads")
        return self


class TrainStudentConfig(Section):
    section: ClassVar[str] = "train-student"

    objective: Objective = Field("mvq", description="distillation loss beside the ASR loss; none is the baseline")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig(), description="sizes of the student")
    num_epochs: int = Field(30, ge=1, description="passes over the training split")
    speeds: list[float] = Field(
        [0.9, 1.0, 1.1], description="speed-perturbed copies trained on; each must have indexes"
    )
    batch_duration_s: float = Field(120.0, gt=0, description="audio seconds a batch, padding included")
    accumulate_batches: int = Field(
        1,
        ge=1,
        description="batches of each rank whose mean gradient makes a step; 1: raise batch_duration_s while it fits "
        "into memory, that is faster",
    )
    learning_rate: float = Field(0.002, gt=0, description="peak of the schedule (AdamW)")
    schedule: Schedule = Field(
        "cosine",
        description="fall of the learning rate after the warm-up; cosine ends at 0, best where the number of epochs is "
        "fixed; noam (ends at the root of warmup_share) and eden (at a tenth) leave room to go on or stop early",
    )
    warmup_share: float = Field(
        0.1, ge=0, lt=1, description="share of the run with rising learning rate: Adam's moments are rough at first"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's")
    gradient_clip: float = Field(5.0, gt=0, description="maximum gradient norm")
    ctc_scale: float = Field(0.3, ge=0, description="weight of the CTC loss beside the transducer's")
    simple_loss_scale: float = Field(0.5, ge=0, description="weight of the pruning bound's own loss")
    prune_range: int = Field(5, ge=2, description="symbols kept a frame in the pruned lattice")
    codebook_scale: float = Field(0.3, ge=0, description="weight of the distillation loss")
    codebook_scale_end: float | None = Field(
        None, ge=0, description="its weight at the end of training, approached linearly; default: the same throughout"
    )
    distillation_layer: int | None = Field(
        None, ge=1, description="1-based student layer that predicts; default: the middle"
    )
    distillation_stride: int = Field(
        1,
        ge=1,
        description="only every so many-th student frame has the distillation loss, from another first frame in each "
        "step: neighbours say much the same, and 2 halves what the loss costs",
    )
    delta_frames: int = Field(0, ge=0, description="student frames by which targets are delayed (streaming)")
    predictor_layers: int = Field(
        1,
        ge=1,
        le=4,
        description="layers that predict indexes from the student's; 1, linear, leaves the work to the student",
    )
    joint_prediction: bool = Field(
        False, description="a codebook is predicted from the true indexes before it, too; the paper found no gain"
    )
    ci_source: Literal["stored", "teacher"] = Field(
        "stored", description="teacher: compute indexes in every step, with the teacher beside the student; slow"
    )
    untranscribed_ratio: float = Field(
        0.0,
        ge=0,
        description="seconds of the split `untranscribed` for a second of `train`, at most all of it once an epoch; it "
        "has the distillation loss alone. 0: none, since encode-ci makes indexes of train alone by default",
    )
    noise_share: float = Field(
        0.0, ge=0, le=1, description="utterances with noise mixed in; indexes stay those of the clean audio. 0: none"
    )
    noise_snr_db: tuple[float, float] = Field(
        (5.0, 20.0), description="lowest and highest ratio of speech to noise; below 5 dB words get lost"
    )
    silence_s: float = Field(
        0.0,
        ge=0,
        le=10,
        description="up to so many seconds of silence or faint noise before each utterance, drawn anew each time, for "
        "recordings that are cut close: microphones are not. 0: none",
    )
    spec_augment: bool = Field(True, description="time and frequency masks; never time warp: indexes would move")
    num_checkpoints: int | None = Field(
        None,
        ge=1,
        description="last epoch checkpoints that are averaged into the student; default: those of the last quarter of "
        "num_epochs, 1 to 5. Earlier weights have not settled: docs/experiments_averaged.md",
    )
    early_stop_epochs: int = Field(
        0,
        ge=0,
        description="epochs without a lower transducer loss on the dev split that end training, with the weights up to "
        "the best; 0: train to the end, where a cosine schedule is best, and without a dev split",
    )
    checkpoint_steps: int = Field(100, ge=1, description="steps between resumable states")
    chunk_choices: ChunkSizes = Field(
        [],
        description="student frames a chunk of attention, one of these drawn a step, 0 the whole utterance: 8,16,32,0 "
        "trains one set of weights for all four. Empty: always model.chunk_frames, enough for a single latency",
    )
    checkpoint_activations: bool = Field(
        False,
        description="keep only the input of each encoder block and compute the rest again in the backward pass: about "
        "half of a step's memory for a third more time, for batches that do not fit",
    )
    max_bad_batches: int = Field(
        10, ge=0, description="batches with a non-finite loss that are skipped before giving up"
    )
    log_steps: int = Field(20, ge=1, description="steps between history rows")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor has it"
    )
    num_threads: int = Field(
        0, ge=0, description="torch threads a rank; 0: its part of the cores that this machine's ranks may use"
    )
    seed: int = Field(0, ge=0, description="initialisation, batch order and masks")
    device: str = Field("auto", description="auto: cuda when there is one, else cpu")

    @property
    def averaged_checkpoints(self) -> int:
        """``num_checkpoints`` or its default."""
        return self.num_checkpoints or min(5, max(1, self.num_epochs // 4))

    @model_validator(mode="after")
    def _noam_has_a_peak(self) -> TrainStudentConfig:
        if self.schedule == "noam" and not self.warmup_share:
            raise ValueError("schedule noam needs a warmup_share above 0: its peak lies at the warm-up's end")
        return self


class EvaluateConfig(Section):
    section: ClassVar[str] = "evaluate"

    split: str = Field("test", description="split that is decoded")
    decoders: list[Decoder] = Field(
        ["greedy", "modified_beam_search", "ctc_greedy"], description="each gets its row in the report"
    )
    beam_size: int = Field(4, ge=1, description="hypotheses kept by modified_beam_search")
    chunk_frames: ChunkSizes = Field(
        [],
        description="also decode with attention in chunks of so many student frames of 40 ms, 0 the whole utterance, "
        "a row a size and decoder: 8,16,0 is 320 ms, 640 ms and offline. Empty: the size trained with, alone",
    )
    bootstrap_samples: int = Field(10_000, ge=100, description="resamples of utterances for the interval")
    teacher_wer: bool = Field(True, description="also transcribe with the teacher where it has a decoder")
    seed: int = Field(0, ge=0, description="seeds the bootstrap")
    device: str = Field("auto", description="auto: cuda when there is one, else cpu")


class ExportOnnxConfig(Section):
    section: ClassVar[str] = "export-onnx"

    opset: int = Field(18, ge=18, le=23, description="oldest that the exporter supports, so that most runtimes load it")
    split: str = Field("test", description="split whose WER is the bundle's WER of record")
    int8: bool = Field(True, description="also write dynamically quantised graphs (MatMul only)")
    chunk_frames: int = Field(
        0,
        ge=0,
        description="student frames of 40 ms a chunk of the streaming graph: its latency. 0: as the student was "
        "trained, or 16 where it was trained on whole utterances",
    )
    max_difference: float = Field(1e-3, gt=0, description="largest absolute difference torch vs onnxruntime")
    min_token_agreement: float = Field(
        0.98, ge=0, le=1, description="share of utterances with equal greedy tokens, torch vs sherpa-onnx"
    )


class GateConfig(Section):
    section: ClassVar[str] = "gate"

    max_wer: float = Field(
        1.0, gt=0, description="absolute bound; above it a challenger is refused even without champion"
    )
    max_wer_by_split: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="bounds of single test sets by the name of their split, instead of max_wer: some sets are harder "
        "than others. A bound on a set that is not scored refuses",
    )
    tolerance: float = Field(
        0.005,
        ge=0,
        description="WER by which a challenger may be worse than the champion on any test set: half a point is less "
        "than people notice",
    )
    min_probability: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="share of resampled test sets on which a better challenger must win (paired bootstrap); the usual "
        "level. Of challengers that are no better one in twenty passes, so raise it where many are tried",
    )
    bootstrap_samples: int = Field(
        10_000, ge=100, description="resampled test sets: 0.95 is then met or missed by 0.2 points of chance"
    )
    seed: int = Field(0, ge=0, description="of the resamples, so that the same reports give the same decision")
    min_speakers: int = Field(
        20,
        ge=2,
        description="speakers from which on whole speakers are resampled, because errors of one come together; fewer "
        "are too few to draw from, and utterances are resampled",
    )
    equal_margin: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="WER by which a challenger that is no better may be worse to count as equal, which must be as sure "
        "as min_probability; then it is promoted if it is cheaper. 0: never",
    )
    min_saving: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share by which an equal challenger's graphs or real-time factor must be lower, and the other not "
        "higher: less does not repay a change, and speed varies that much between runs",
    )
    max_slice_regression: float = Field(
        0.03,
        ge=0,
        description="WER by which no speaker and no length of utterance may get worse, unless chance explains it: a "
        "better mean must not be paid for by a few",
    )
    min_slice_words: int = Field(100, ge=1, description="slices with fewer words are reported, and not tested")
    max_streaming_gap: float = Field(
        0.5,
        ge=0,
        description="share of the offline WER by which the streaming graph's may be higher; beyond it the graph or its "
        "chunks are broken rather than short",
    )
    max_latency_s: float = Field(
        2.0, gt=0, description="delay of the streaming graph by its chunks alone; later text does not feel live"
    )
    max_rtf: float | None = Field(
        None,
        gt=0,
        description="seconds of computing a second of speech; none by default, because the figure is that of the "
        "machine which exported",
    )
    max_bundle_bytes: int | None = Field(None, gt=0, description="all files; none by default, because devices differ")
    max_quantizer_error: float = Field(
        0.8, gt=0, description="relative reconstruction error beyond which CI mean little"
    )
    min_test_utterances: int = Field(20, ge=1, description="fewer say nothing about a WER")


# Names that mean something else in a URI, a filter or a path: no control characters, no separators, no quotes, no "..".
_NAME = r"^[^\x00-\x1f\x7f/\\:@'\"`%]+$"
_NAMES = r"^[^\x00-\x1f\x7f\\:@'\"`%]+$"


class PromoteConfig(Section):
    section: ClassVar[str] = "promote"

    model_name: str = Field("mvqkd-student", min_length=1, pattern=_NAME, description="registered model")
    experiment: str = Field("mvqkd", min_length=1, pattern=_NAMES, description="MLflow experiment of the runs")
    approval: Literal["gate", "reviewer"] = Field(
        "gate", description="whose word moves the alias champion; reviewer: `mvqkd approve`, after the gate's promote"
    )
    report_audio: int = Field(
        5, ge=0, description="recordings to listen to on the run's page, which MLflow gets; 0 keeps speech out of it"
    )


class Params(Section):
    """The whole of params.yaml."""

    section: ClassVar[str] = ""

    prepare_data: PrepareDataConfig = Field(default_factory=lambda: PrepareDataConfig(), alias="prepare-data")
    extract_teacher: ExtractTeacherConfig = Field(
        default_factory=lambda: ExtractTeacherConfig(), alias="extract-teacher"
    )
    fit_quantizer: FitQuantizerConfig = Field(default_factory=lambda: FitQuantizerConfig(), alias="fit-quantizer")
    encode_ci: EncodeCiConfig = Field(default_factory=lambda: EncodeCiConfig(), alias="encode-ci")
    train_student: TrainStudentConfig = Field(default_factory=lambda: TrainStudentConfig(), alias="train-student")
    evaluate: EvaluateConfig = Field(default_factory=lambda: EvaluateConfig())
    export_onnx: ExportOnnxConfig = Field(default_factory=lambda: ExportOnnxConfig(), alias="export-onnx")
    gate: GateConfig = Field(default_factory=lambda: GateConfig())
    promote: PromoteConfig = Field(default_factory=lambda: PromoteConfig())


SECTIONS: dict[str, type[Section]] = {
    model.section: model
    for model in (
        PrepareDataConfig,
        ExtractTeacherConfig,
        FitQuantizerConfig,
        EncodeCiConfig,
        TrainStudentConfig,
        EvaluateConfig,
        ExportOnnxConfig,
        GateConfig,
        PromoteConfig,
    )
}

SectionT = TypeVar("SectionT", bound=Section)


def load_section(
    model: type[SectionT], params_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> SectionT:
    """Read one section of a params file and lay overrides over it.

    Args:
        model: the section's class; its ``section`` names the key.
        params_file: YAML file; None means defaults only. A file without the section gives defaults.
        overrides: field -> value; a dotted field reaches into a nested section (``model.encoder_dim``).
    Raises:
        ConfigError: naming file, field, expected and got.
    """
    values: dict[str, Any] = {}
    origin = "command line"
    if params_file is not None:
        origin = str(params_file)
        document = _read_yaml(params_file)
        _check_names(origin, document, SECTIONS)
        values = _as_mapping(f"{origin}, key {model.section}", document.get(model.section))
    for dotted, value in (overrides or {}).items():
        target = values
        *outer, last = dotted.split(".")
        for name in outer:
            target[name] = _as_mapping(f"{origin}, key {model.section}.{name}", target.get(name))
            target = target[name]
        target[last] = value
    return parse_section(model, values, origin)


def parse_section(model: type[SectionT], values: Mapping[str, Any], origin: str) -> SectionT:
    """Validate a section's values; ``origin`` names where they came from in error messages."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(model, origin, error) from error


def section_from_json(model: type[SectionT], text: str) -> SectionT:
    """Read a section that an orchestrator passed as JSON.

    Raises:
        ConfigError: when the text is no JSON object or does not fit the section.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a JSON {type(values).__name__}")
    except ValueError as error:
        raise ConfigError(
            f"section {model.section}", expected="a JSON object", got=str(error), next_step="pass the section as JSON"
        ) from error
    return parse_section(model, values, f"section {model.section} as JSON")


def field_names(model: type[Section]) -> list[str]:
    """Dotted names of every field of a section, nested ones included."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, Section):
            names += [f"{name}.{inner}" for inner in field_names(nested)]
        else:
            names.append(name)
    return names


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(
            f"params file {path}", expected="a readable YAML file", got=str(error), next_step="pass --params FILE"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"params file {path}", expected="valid YAML", got=str(error), next_step="mend the file"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"params file {path}",
            expected="a mapping of sections",
            got=type(document).__name__,
            next_step=f"start from the sections {', '.join(SECTIONS)}",
        )
    return document


def _as_mapping(subject: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(subject, expected="a mapping of parameters", got=repr(value), next_step="write name: value")
    return dict(value)


def _check_names(origin: str, document: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name in document:
        if name not in known:
            raise _unknown_key(origin, str(name), list(known))


def _unknown_key(origin: str, name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=1, cutoff=0.5)
    return ConfigError(
        f"{origin}, key {name}",
        expected=f"a known key (nearest: {near[0]})" if near else f"one of {', '.join(known)}",
        got=f"unknown key {name.rpartition('.')[2]}",
        next_step=f"rename it to {near[0]} or remove it" if near else "remove it",
    )


def _as_config_error(model: type[Section], origin: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    dotted = f"{model.section}.{location}" if location else model.section
    if first["type"] == "extra_forbidden":
        owner = model
        for part in first["loc"][:-1]:
            nested = owner.model_fields[str(part)].annotation
            if isinstance(nested, type) and issubclass(nested, Section):
                owner = nested
        return _unknown_key(origin, dotted, list(owner.model_fields))
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(
        f"{origin}, {dotted}",
        expected=message[0].lower() + message[1:],
        got=repr(first["input"]) if location else "values that contradict each other",
        next_step=f"change {dotted}",
    )


def literal_choices(annotation: Any) -> tuple[Any, ...]:
    """Choices of a Literal annotation, () for anything else."""
    arguments = get_args(annotation)
    return arguments if arguments and all(isinstance(item, str | int) for item in arguments) else ()
