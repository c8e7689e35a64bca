"""Drawn scenes with known masks and classes, for tests, demonstrations and the training of stellar-tiny.

A scene follows from its seed alone. What draws images without a data set belongs here.
"""

from stellar_hub.data.scenes.scene import CLASS_APPEARANCES, ClassCue, Scene, draw_scene
from stellar_hub.data.scenes.shapes import SCENE_CLASSES

__all__ = ["CLASS_APPEARANCES", "SCENE_CLASSES", "ClassCue", "Scene", "draw_scene"]
