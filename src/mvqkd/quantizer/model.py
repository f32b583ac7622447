"""The codec: float embeddings to codebook indexes and back.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from mvqkd.artifacts import atomic_open
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ArtifactNotFoundError, DataError
from mvqkd.quantizer.first_choice import LogitsTable, build_logits_table, first_choice
from mvqkd.quantizer.search import SearchMode, search
from mvqkd.quantizer.tables import UNARY_BLOCK, SearchTables, build_tables, unary_energy
from mvqkd.quantizer.threads import in_parts

_T = TypeVar("_T")
QUANTIZER_FILE = "quantizer.safetensors"
FORMAT_VERSION = 1
# A log-scale is stored divided by this, so that one optimizer step changes the scale as fast as the weights.
LOG_SCALE_SPEED = 10.0
IDENTITY_BYTES = 16
# Phase 1 of fitting has twice the codebooks of the result.
MAX_CODEBOOKS = 128
# Bounds the memory of a thread that encodes, whatever the batch: two tables of energies and a few copies of a vector.
ENCODE_BYTES, CUDA_ENCODE_BYTES = 1 << 25, 1 << 30
# Normalised channels are of magnitude 1. Far below this, squared errors begin to overflow float32.
LARGEST_MAGNITUDE = 1e12


class Quantizer(nn.Module):
    """Encode embeddings as one index for each of N codebooks; decode as the sum of the chosen centers.

    Every channel is normalised by a mean and a standard deviation that are part of the codec.

    Shapes: B vectors, N codebooks, K entries a codebook, D channels.
    Args:
        dim: D.
        num_codebooks: N, 1 to 128; the search is that of the public implementation where N is a power of two.
        codebook_size: K, a power of two up to 256.
        mean: float (D,), subtracted from the channels; default 0.
        std: float (D,), divides the channels; default 1. A channel of std 0 is constant: it is left out of the codes
            and decoded as its mean.
        generator: draws the initial weights and the identity; default: torch's global one.
    """

    mean: Tensor
    std: Tensor
    identity: Tensor

    def __init__(
        self,
        dim: int,
        num_codebooks: int,
        codebook_size: int,
        *,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= num_codebooks <= MAX_CODEBOOKS:
            raise ValueError(f"num_codebooks must be within 1 .. {MAX_CODEBOOKS}, got {num_codebooks}")
        if not 2 <= codebook_size <= 256 or codebook_size & (codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of two within 2 .. 256, got {codebook_size}")
        self.dim = dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        entries = num_codebooks * codebook_size
        bound = 1 / math.sqrt(dim)
        weight = torch.empty(entries, dim).uniform_(-bound, bound, generator=generator)
        if std is not None:
            weight[:, std.cpu() == 0] = 0.0
        bias = torch.empty(entries).uniform_(-bound, bound, generator=generator)
        self.logits_weight = nn.Parameter(weight)
        self.logits_bias = nn.Parameter(bias)
        self.centers = nn.Parameter(weight.clone().view(num_codebooks, codebook_size, dim))
        self.logits_log_scale = nn.Parameter(torch.zeros(()))
        self.centers_log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(dim) if mean is None else mean.detach().float().clone())
        self.register_buffer("std", torch.ones(dim) if std is None else std.detach().float().clone())
        identity = torch.randint(0, 256, (IDENTITY_BYTES,), dtype=torch.uint8, generator=generator)
        self.register_buffer("identity", identity)
        self._cache: dict[str, tuple[Any, Any]] = {}

    @property
    def bits_per_index(self) -> int:
        return self.codebook_size.bit_length() - 1

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of a packed frame: one index a byte, or two where an index has no more than 4 bits."""
        return self.num_codebooks if self.bits_per_index > 4 else (self.num_codebooks + 1) // 2

    @property
    def id(self) -> str:
        """sha256 (hex) of sizes, weights and identity: equal ids encode equally."""
        digest = sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def normalize(self, x: Tensor) -> Tensor:
        """Embeddings (..., D) in the codec's own space: zero mean, unit variance a channel; constant ones are 0.

        What is not finite stays so, in constant channels as well.
        """
        return (x.float() - self.mean) * torch.where(self.std > 0, 1 / self.std, 0.0)

    def denormalize(self, x: Tensor) -> Tensor:
        """Inverse of ``normalize``."""
        return x * self.std + self.mean

    def effective_centers(self) -> Tensor:
        """Centers with their scale applied, float32 (N, K, D), in the codec's own space."""
        return self.centers * (LOG_SCALE_SPEED * self.centers_log_scale).exp()

    def logits(self, normalized: Tensor) -> Tensor:
        """Scores of the entries, float32 (B, N, K), of embeddings (B, D) in the codec's own space."""
        scaled = normalized * (LOG_SCALE_SPEED * self.logits_log_scale).exp()
        scores = functional.linear(scaled, self.logits_weight, self.logits_bias)
        return scores.view(-1, self.num_codebooks, self.codebook_size)

    def sum_of_centers(self, indexes: Tensor) -> Tensor:
        """Decode int64 (B, N) in the codec's own space, float32 (B, D), differentiable in the centers."""
        offsets = torch.arange(self.num_codebooks, device=indexes.device) * self.codebook_size
        return functional.embedding_bag(indexes + offsets, self.effective_centers().flatten(0, 1), mode="sum")

    def tables(self) -> SearchTables:
        """Search tables of the present centers; kept until the centers change."""
        parameters = self.centers, self.centers_log_scale
        return self._kept("tables", parameters, lambda: build_tables(self.effective_centers()))

    def logits_table(self) -> LogitsTable:
        """What the choice by the logits needs, of the present weights; kept until they change."""

        def build() -> LogitsTable:
            scale = (LOG_SCALE_SPEED * self.logits_log_scale).exp()
            return build_logits_table(self.logits_weight * scale, self.logits_bias, self.num_codebooks)

        return self._kept("logits", (self.logits_weight, self.logits_bias, self.logits_log_scale), build)

    def _kept(self, name: str, parameters: Sequence[Tensor], build: Callable[[], _T]) -> _T:
        state = [(p._version, p.data_ptr(), p.device) for p in parameters]
        if name not in self._cache or self._cache[name][0] != state:
            self._cache[name] = state, build()
        kept: _T = self._cache[name][1]
        return kept

    @torch.no_grad()
    def encode(self, x: Tensor, mode: SearchMode = "exact", iterations: int = 5) -> Tensor:
        """Choose one entry of each codebook for every embedding.

        The result of a vector does not depend on the others in the call.

        Args:
            x: float (B, D), of any float type, finite; B may be 0.
            mode: "exact" does what the public implementation does, "best" searches on for a lower error, "fast" ends
                after few passes.
            iterations: refine passes; gains end at about 5. "fast" takes no more than it is made for.
        Returns:
            uint8 (B, N), values in [0, K).
        Raises:
            ArtifactMismatchError: x does not have D channels.
            DataError: x holds NaN, infinity or numbers so large that their squares overflow.
            ValueError: another mode.
        """
        if x.dim() != 2 or x.shape[1] != self.dim or not x.is_floating_point():
            raise self._mismatch(f"float embeddings of shape (B, {self.dim})", f"{x.dtype} {tuple(x.shape)}")
        tables, logits = self.tables(), self.logits_table()
        indexes = torch.empty(len(x), self.num_codebooks, dtype=torch.uint8, device=self.mean.device)

        def encode(part: slice) -> None:
            normalized = self.normalize(x[part].to(self.mean.device))
            _refuse_not_finite(normalized, part.start, len(x))
            first = first_choice(normalized, logits)
            indexes[part] = search(unary_energy(normalized, tables), first, tables, mode, iterations)

        most = self._most_rows()
        if self.mean.is_cuda:
            for start in range(0, len(x), most):
                encode(slice(start, start + most))
        else:
            in_parts(encode, len(x), block=UNARY_BLOCK, most=most)
        return indexes

    @torch.no_grad()
    def decode(self, indexes: Tensor) -> Tensor:
        """Reconstruct embeddings.

        Args:
            indexes: integer (B, N), values in [0, K).
        Returns:
            float32 (B, D), in the teacher's space.
        Raises:
            ArtifactMismatchError: another number of codebooks, or an index out of range.
        """
        if indexes.dim() != 2 or indexes.shape[1] != self.num_codebooks:
            raise self._mismatch(f"indexes of shape (B, {self.num_codebooks})", f"{tuple(indexes.shape)}")
        indexes = indexes.long()
        if len(indexes) and not 0 <= int(indexes.min()) <= int(indexes.max()) < self.codebook_size:
            raise self._mismatch(
                f"indexes in 0..{self.codebook_size - 1}", f"values in {int(indexes.min())}..{int(indexes.max())}"
            )
        return self.denormalize(self.sum_of_centers(indexes))

    def _most_rows(self) -> int:
        """Vectors that a thread encodes together; whole blocks of the matrix products."""
        bytes_per_vector = 4 * (2 * self.num_codebooks * self.codebook_size + 4 * self.dim)
        budget = CUDA_ENCODE_BYTES if self.mean.is_cuda else ENCODE_BYTES
        return max(1, budget // bytes_per_vector // UNARY_BLOCK) * UNARY_BLOCK

    def _mismatch(self, expected: str, got: str) -> ArtifactMismatchError:
        return ArtifactMismatchError(
            f"quantizer {self.id[:12]}",
            expected=expected,
            got=got,
            next_step="use the quantizer that was fitted on this teacher and layer",
        )

    def _header(self) -> dict[str, int]:
        return {
            "format_version": FORMAT_VERSION,
            "dim": self.dim,
            "num_codebooks": self.num_codebooks,
            "codebook_size": self.codebook_size,
        }

    @classmethod
    def from_multi_quantization(cls, state_dict: Mapping[str, Tensor]) -> Quantizer:
        """Import from the package multi-quantization; see ``mvqkd.quantizer.interop``."""
        from mvqkd.quantizer.interop import from_multi_quantization

        return from_multi_quantization(state_dict)

    def to_multi_quantization(self, *, normalized_input: bool = False) -> dict[str, Tensor]:
        """Export to the package multi-quantization; see ``mvqkd.quantizer.interop``."""
        from mvqkd.quantizer.interop import to_multi_quantization

        return to_multi_quantization(self, normalized_input=normalized_input)

    def save(self, directory: Path) -> None:
        """Write quantizer.safetensors below ``directory``: weights, and the sizes as JSON in its header."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        header = json.dumps({**self._header(), "id": self.id}, sort_keys=True)
        with atomic_open(Path(directory) / QUANTIZER_FILE, "wb") as stream:
            stream.write(save(tensors, {"mvqkd.quantizer": header}))

    @classmethod
    def load(cls, directory: Path, device: str | torch.device = "cpu") -> Quantizer:
        """Read a saved quantizer and check it against its own id.

        Raises:
            ArtifactNotFoundError, ArtifactMismatchError, ArtifactCorruptError.
        """
        path = Path(directory) / QUANTIZER_FILE
        if not path.is_file():
            raise ArtifactNotFoundError(
                f"quantizer {directory}",
                expected=QUANTIZER_FILE,
                got="no such file",
                next_step="run `mvqkd fit-quantizer`",
            )
        try:
            with safe_open(path, "pt") as stream:
                header = json.loads((stream.metadata() or {})["mvqkd.quantizer"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  # not a mapping
            if header["format_version"] != FORMAT_VERSION:
                raise ArtifactMismatchError(
                    f"quantizer {path}",
                    expected=f"format version {FORMAT_VERSION}",
                    got=f"version {header['format_version']}",
                    next_step="re-run fit-quantizer with this version of mvqkd",
                )
            # A generator of its own: loading must not move the caller's random state.
            generator = torch.Generator()
            quantizer = cls(header["dim"], header["num_codebooks"], header["codebook_size"], generator=generator)
            quantizer.load_state_dict(tensors)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise _corrupt(path, "a readable quantizer", str(error)) from error
        if quantizer.id != header["id"]:
            raise _corrupt(
                path, f"id {header['id'][:12]} as its header states", f"id {quantizer.id[:12]} from its weights"
            )
        return quantizer.requires_grad_(False).to(device)


def _refuse_not_finite(normalized: Tensor, start: int, total: int) -> None:
    sane = normalized.abs().amax(1) < LARGEST_MAGNITUDE  # False for NaN
    if not bool(sane.all()):
        raise DataError(
            f"embedding {start + int((~sane).nonzero()[0])} of {total}",
            expected="finite numbers of sane magnitude",
            got="NaN, infinity or a number too large to square",
            next_step="check the teacher's output and the audio that it came from",
        )


def _corrupt(path: Path, expected: str, got: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"quantizer {path}", expected=expected, got=got, next_step="re-run fit-quantizer or restore the file"
    )
