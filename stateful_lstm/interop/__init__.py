"""Exchange with others: weights and states from and to Keras, models for ONNX.

Keras is never imported here, and onnx only by :func:`export_onnx`.
"""

from .keras import from_keras, to_keras
from .onnx import export_onnx

__all__ = ["export_onnx", "from_keras", "to_keras"]
