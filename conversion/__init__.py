"""Conversion of original STELLAR checkpoints and of the MaskGIT-VQGAN to this library's layout.

All knowledge about foreign layouts of STELLAR's weights belongs here. The files convert; they do not download.
"""

from stellar_hub.conversion.convert import convert_original
from stellar_hub.conversion.load import load_original

__all__ = ["convert_original", "load_original"]
