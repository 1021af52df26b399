"""Training on sequences that do not end: :class:`Trainer`."""

from .checkpoint import CheckpointError
from .trainer import Trainer

__all__ = ["CheckpointError", "Trainer"]
