"""Training on long sequences: :class:`Trainer`."""

from .checkpoint import CheckpointError
from .trainer import Trainer

__all__ = ["CheckpointError", "Trainer"]
