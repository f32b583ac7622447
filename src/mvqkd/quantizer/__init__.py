"""The codec: fit, encode, decode, report."""

from mvqkd.quantizer.model import Quantizer

__all__ = ["Quantizer"]
