"""Exchange with others: weights and states from and to Keras, models for ONNX.

Keras is never imported here, and onnx or onnxscript only by what needs them.
"""

from .keras import from_keras, to_keras
from .onnx import export_onnx
from .onnx_models import onnx_translations

__all__ = ["export_onnx", "from_keras", "onnx_translations", "to_keras"]
