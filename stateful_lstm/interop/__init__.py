"""Exchange with other libraries: weights and states from and to Keras, models for ONNX.

This package never imports Keras; only the functions that need onnx or onnxscript import them.
"""

from .keras import from_keras, to_keras
from .onnx import export_onnx
from .onnx_models import onnx_translations

__all__ = ["export_onnx", "from_keras", "onnx_translations", "to_keras"]
