"""The registered model as code: MLflow runs this file to load a version; no pickle is involved.

Beside it in the version lies the whole bundle, artifact.json included, which is verified before it is used.
Unlike the rest of the project this file acts when it is run: that is how MLflow's models-from-code work.
"""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model


class StudentModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Transcribe with the ONNX bundle of a registered version."""

    def load_context(self, context: Any) -> None:
        """Verify the bundle and open it with onnxruntime.

        Raises:
            ArtifactError: its bytes are not those that were registered.
        """
        from mvqkd.artifacts import load_artifact
        from mvqkd.decode.onnx_runtime import OnnxTransducer

        bundle = Path(context.artifacts["bundle"])
        load_artifact(bundle, "onnx-bundle")
        self._transducer = OnnxTransducer(bundle)

    def predict(self, model_input: list[str | list[float]]) -> list[str]:
        """Transcribe recordings.

        Args:
            model_input: each a path to an audio file of any rate, or samples: (num_samples,) mono, 16 kHz.
        Returns:
            one text a recording, in order.
        Raises:
            AudioError: a file cannot be read.
        """
        import numpy as np

        from mvqkd.data.audio import read_audio

        audio = [
            read_audio(Path(item)) if isinstance(item, str) else np.asarray(item, dtype=np.float32)
            for item in model_input
        ]
        texts: list[str] = self._transducer.transcribe(audio)
        return texts


set_model(StudentModel())
