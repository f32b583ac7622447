"""Peers of other designs, behind the interface of ``quantizer_codecs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvqkd.progress import track
from quantizer_codecs import ENTRIES, Codec, Codes, Floats, batches

RESIDUAL_VQ = "vector-quantize-pytorch"
FAISS = "faiss-cpu"


@dataclass(frozen=True)
class Faiss(Codec):
    """An index of faiss by its factory string, M standing for the number of bytes and S for a quarter of it.

    ``beam`` is that of encoding: to fit with a wide one would take gigabytes.
    """

    package = FAISS
    encode_settings = frozenset({"label", "beam"})
    label: str = "RQ"
    factory: str = "RQ{M}x8"
    beam: int | None = None
    train_iterations: int | None = None

    @property
    def name(self) -> str:
        return f"faiss {self.label}"

    @property
    def budget(self) -> str:
        return "its default" if self.train_iterations is None else f"{self.train_iterations} iterations"

    def fit(self, vectors: Floats, num_bytes: int, seed: int) -> Any:
        import faiss

        index = faiss.index_factory(vectors.shape[1], self.factory.format(M=num_bytes, S=num_bytes // 4))
        if self.train_iterations is not None:
            index.lsq.train_iters = self.train_iterations
        index.train(np.ascontiguousarray(vectors))
        assert index.sa_code_size() == num_bytes
        return index

    def save(self, model: Any, folder: Path) -> None:
        import faiss

        faiss.write_index(model, str(folder / "index.faiss"))

    def load(self, folder: Path) -> Any:
        import faiss

        index = faiss.read_index(str(folder / "index.faiss"))
        if self.beam is not None:
            index.rq.max_beam_size = self.beam
        return index

    def encode(self, model: Any, vectors: Floats) -> Codes:
        return model.sa_encode(vectors)

    def decode(self, model: Any, codes: Codes) -> Floats:
        return model.sa_decode(codes)


@dataclass(frozen=True)
class ResidualVq(Codec):
    """vector-quantize-pytorch: one k-means after the other on residuals, then moving averages over batches."""

    package = RESIDUAL_VQ
    epochs: int = 10
    batch_size: int = 2048
    decay: float = 0.95

    @property
    def name(self) -> str:
        return "ResidualVQ"

    @property
    def budget(self) -> str:
        return f"{self.epochs} epochs"

    def _module(self, dim: int, num_bytes: int) -> Any:
        from vector_quantize_pytorch import ResidualVQ

        return ResidualVQ(
            dim=dim, num_quantizers=num_bytes, codebook_size=ENTRIES, kmeans_init=True, decay=self.decay
        ).requires_grad_(False)

    def fit(self, vectors: Floats, num_bytes: int, seed: int) -> Any:
        torch.manual_seed(seed)
        module = self._module(vectors.shape[1], num_bytes)
        steps = self.epochs * max(1, len(vectors) // self.batch_size)
        for rows in track(batches(len(vectors), self.batch_size, steps, seed), self.name, total=steps, unit="step"):
            module(torch.from_numpy(vectors[rows])[None])
        return module.eval()

    def save(self, model: Any, folder: Path) -> None:
        sizes = {"dim": model.codebooks.shape[2], "num_bytes": model.num_quantizers}
        torch.save({"sizes": sizes, "state": model.state_dict()}, folder / "residual_vq.pt")

    def load(self, folder: Path) -> Any:
        saved = torch.load(folder / "residual_vq.pt", weights_only=True)
        module = self._module(**saved["sizes"])
        module.load_state_dict(saved["state"])
        return module.eval()

    @torch.inference_mode()
    def encode(self, model: Any, vectors: Floats) -> Codes:
        return model(torch.from_numpy(vectors)[None])[1][0].to(torch.uint8).numpy()

    @torch.inference_mode()
    def decode(self, model: Any, codes: Codes) -> Floats:
        return model.get_output_from_indices(torch.from_numpy(codes).long()[None])[0].numpy()


FAISS_PEERS = (
    Faiss("RQ", "RQ{M}x8"),
    Faiss("RQ, beam 32", "RQ{M}x8", beam=32),
    Faiss("LSQ", "LSQ{M}x8"),
    Faiss("PLSQ, groups of 4", "PLSQ{S}x4x8"),
    Faiss("PQ", "PQ{M}"),
    Faiss("OPQ", "OPQ{M},PQ{M}"),
)
