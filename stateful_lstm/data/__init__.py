"""Data for training on sequences: windows that go on row by row, and batches of similar length."""

from .buckets import bucket_by_length
from .continuous import ContinuousBatches
from .window import Window

__all__ = ["ContinuousBatches", "Window", "bucket_by_length"]
