"""Every error a user can meet, in one tree.

MvqkdError
├── ConfigError                  a parameter is unknown, out of range or of the wrong type
├── ArtifactError
│   ├── ArtifactNotFoundError    the directory or its artifact.json is not there
│   ├── ArtifactMismatchError    another kind, schema or lineage than the stage needs
│   └── ArtifactCorruptError     the bytes differ from the recorded digests
├── DataError
│   ├── EmptyCutSetError         nothing is left to work on
│   ├── FrameAlignmentError      teacher and student frame counts do not fit
│   └── AudioError               a recording cannot be used
├── TeacherError                 teacher weights are missing or not what they claim to be
├── TrainingError                training cannot go on (no finite loss, no usable batch)
├── ExportParityError            the exported graph does not compute what the student computes
├── RegistryError                the tracking server or the model registry refused or failed
├── NotificationError            a run's outcome could not be told
├── PipelineServerError          Kubeflow Pipelines refused, failed or did not answer (pipelines/answers.py)
└── MissingDependencyError       a program or package that the stage needs is not installed

The command line prints one of these as a single line and exits with 1.
"""

from __future__ import annotations


class MvqkdError(Exception):
    """A problem that the user can act on: what it concerns, what was expected, what was found, what to do.

    Args:
        subject: the thing concerned, with its id or path, e.g. ``cut 1088-134315-0``.
        expected: what would have been right.
        got: what was found instead.
        next_step: an imperative sentence: how to get out of this.
    """

    def __init__(self, subject: str, *, expected: str, got: str, next_step: str) -> None:
        self.subject = subject
        self.expected = expected
        self.got = got
        self.next_step = next_step
        super().__init__(subject, expected, got, next_step)

    def __str__(self) -> str:
        line = f"{self.subject}: expected {self.expected}, got {self.got}; {self.next_step}"
        return " ".join(line.split())


class ConfigError(MvqkdError):
    """A parameter is unknown, out of range or of the wrong type."""


class ArtifactError(MvqkdError):
    """An artifact directory cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """The directory or its artifact.json is not there."""


class ArtifactMismatchError(ArtifactError):
    """The artifact has another kind, schema or lineage than the stage needs."""


class ArtifactCorruptError(ArtifactError):
    """The bytes on disk differ from the digests recorded when the artifact was written."""


class DataError(MvqkdError):
    """The speech data cannot be used as it is."""


class EmptyCutSetError(DataError):
    """Nothing is left to work on."""


class FrameAlignmentError(DataError):
    """Teacher and student frame counts of a cut do not fit together."""


class AudioError(DataError):
    """A recording cannot be read or is not usable speech audio."""


class TeacherError(MvqkdError):
    """Teacher weights are missing or are not what they claim to be."""


class TrainingError(MvqkdError):
    """Training cannot go on."""


class ExportParityError(MvqkdError):
    """The exported graph does not compute what the student computes."""


class RegistryError(MvqkdError):
    """The tracking server or the model registry refused or failed."""


class NotificationError(MvqkdError):
    """The outcome of a run could not be told to the webhook."""


class MissingDependencyError(MvqkdError):
    """A program or package that the stage needs is not installed."""
