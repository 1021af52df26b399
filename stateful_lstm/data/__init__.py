"""Data for training on sequences: windows with continuous rows, and batches of similar length."""

from .buckets import bucket_by_length
from .continuous import ContinuousBatches
from .window import Window

__all__ = ["ContinuousBatches", "Window", "bucket_by_length"]
