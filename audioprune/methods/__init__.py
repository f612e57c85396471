"""What to keep. Methods know no models."""

from .base import Method
from .topk import SegmentwiseTopK, TopK

__all__ = ["Method", "SegmentwiseTopK", "TopK"]
