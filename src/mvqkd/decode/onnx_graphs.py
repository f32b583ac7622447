"""The graphs of a bundle in onnxruntime: where they lie, and how they are opened and called.

Shapes: N batch, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.tokens import Tokens
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Part = Literal["encoder", "decoder", "joiner", "model"]
Variant = Literal["offline", "streaming", "ctc"]

# The parts of a transducer; CTC is one graph, ``model``.
PARTS: tuple[Part, ...] = ("encoder", "decoder", "joiner")
OFFLINE: Variant = "offline"
STREAMING: Variant = "streaming"
CTC: Variant = "ctc"

# Of the predictor, 1 KB each at 256 joiner channels: every context of a vocabulary of letters.
_REMEMBERED_CONTEXTS = 4096
VARIANTS: tuple[Variant, ...] = (OFFLINE, STREAMING, CTC)


def parts_of(variant: Variant) -> tuple[Part, ...]:
    """The graphs of a variant, the one with the weights first."""
    return ("model",) if variant == CTC else PARTS


def graph_file(part: Part, *, int8: bool = False, variant: Variant = OFFLINE) -> str:
    """Path of a graph, relative to the bundle."""
    return f"{variant}/{part}{'.int8' if int8 else ''}.onnx"


def existing_graph(bundle_dir: Path, part: Part, *, int8: bool, variant: Variant = OFFLINE) -> Path:
    """The graph of a part at a precision; the float32 one where a part has no other."""
    path = bundle_dir / graph_file(part, int8=int8, variant=variant)
    return path if path.is_file() else bundle_dir / graph_file(part, variant=variant)


class Graphs:
    """The opened graphs of one variant of a bundle, and the tokens that their outputs stand for.

    Args:
        bundle_dir: a directory of ``export-onnx``. Its digests are the caller's business
            (``mvqkd.artifacts.load_artifact``).
        num_threads: threads of onnxruntime.
        int8: take the quantised graph of each part that has one; the first part must.
    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: a graph is missing or onnxruntime refuses it.
        DataError: tokens.txt is missing or malformed.
    """

    def __init__(self, bundle_dir: Path | str, variant: Variant, *, num_threads: int = 1, int8: bool = False) -> None:
        self.bundle_dir = Path(bundle_dir)
        self.variant = variant
        parts = parts_of(variant)
        first = graph_file(parts[0], int8=int8, variant=variant)
        if not (self.bundle_dir / first).is_file():
            raise ArtifactNotFoundError(
                f"bundle {self.bundle_dir}",
                expected=first,
                got="no such file",
                next_step="re-run export-onnx" + (" with --int8 true, or leave --int8 out" if int8 else ""),
            )
        self._sessions = {
            part: open_session(existing_graph(self.bundle_dir, part, int8=int8, variant=variant), num_threads)
            for part in parts
        }
        self._inputs = {part: [item.name for item in session.get_inputs()] for part, session in self._sessions.items()}
        self.tokens = Tokens.load(self.bundle_dir)

    def run(self, part: Part, *inputs: NDArray[Any]) -> list[Any]:
        """Outputs of a graph. Tensors are matched by order, as sherpa-onnx does: names are for people."""
        outputs: list[Any] = self._sessions[part].run(None, dict(zip(self._inputs[part], inputs, strict=True)))
        return outputs

    def metadata(self, part: Part, key: str) -> int:
        """A whole number from the metadata of a graph.

        Raises:
            ArtifactCorruptError: it is not there, or no whole number.
        """
        known = self._sessions[part].get_modelmeta().custom_metadata_map
        try:
            return int(known[key])
        except (KeyError, ValueError) as error:
            raise ArtifactCorruptError(
                f"graph {self.bundle_dir / graph_file(part, variant=self.variant)}",
                expected=f"metadata {key}",
                got=str(known.get(key, "none")),
                next_step="re-run export-onnx",
            ) from error


class TransducerGraphs(Graphs):
    """Graphs with a predictor and a joiner; implements ``mvqkd.decode.search.Transducer``."""

    def __init__(self, bundle_dir: Path | str, variant: Variant, *, num_threads: int = 1, int8: bool = False) -> None:
        super().__init__(bundle_dir, variant, num_threads=num_threads, int8=int8)
        self.context_size = self.metadata("decoder", "context_size")
        self._predicted: dict[tuple[int, ...], Floats | None] = {}

    def predict(self, contexts: Ids) -> Floats:
        """See ``Transducer.predict``. Remembers what it has computed: speech says the same few contexts again and
        again, and a call of the graph costs more than all else that a symbol does.
        """
        wanted = [tuple(context) for context in contexts.tolist()]
        known = {context: self._predicted.get(context) for context in wanted}
        new = [context for context, row in known.items() if row is None]
        if new:
            known.update(zip(new, self.run("decoder", np.array(new, dtype=np.int64))[0], strict=True))
            if len(self._predicted) >= _REMEMBERED_CONTEXTS:
                self._predicted = {}  # not cleared: another thread may be reading
            self._predicted.update(known)
        predicted: Floats = np.stack([known[context] for context in wanted])  # type: ignore[misc]
        return predicted

    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        """See ``Transducer.join``."""
        logits: Floats = self.run("joiner", encoded, predicted)[0]
        return logits


def open_session(path: Path, num_threads: int = 1) -> Any:
    """Open a graph on the CPU.

    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: no such file, or onnxruntime refuses it.
    """
    import onnxruntime

    if not path.is_file():
        raise ArtifactNotFoundError(
            f"graph {path}", expected="an ONNX file", got="no such file", next_step="pass a bundle of export-onnx"
        )
    # Some builds report usage; nothing here should.
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Its warnings concern its own optimiser; what is wrong with a graph it raises.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors share no public base class.
        raise ArtifactCorruptError(
            f"graph {path}",
            expected="a graph that onnxruntime can run",
            got=str(error).splitlines()[0][:300],
            next_step="re-run export-onnx",
        ) from error
