"""STELLAR for transformers: configuration, model and image processor, registered with the Auto classes.

The architecture and all that inference needs belong here. All files of this folder but this one are flat and travel
with pushed weights.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .classification_stellar import StellarForImageClassification
from .configuration_stellar import StellarConfig
from .image_processing_stellar import StellarImageProcessor
from .modeling_stellar import StellarModel
from .modeling_stellar_base import StellarPreTrainedModel
from .outputs import StellarEncoding, StellarModelOutput

AutoConfig.register("stellar", StellarConfig)
AutoModel.register(StellarConfig, StellarModel)
AutoModelForImageClassification.register(StellarConfig, StellarForImageClassification)
AutoImageProcessor.register(StellarConfig, image_processor_classes={"torchvision": StellarImageProcessor})

# Every `save_pretrained` saves the code too, so that a pushed repository loads without this library.
StellarConfig.register_for_auto_class()
StellarModel.register_for_auto_class("AutoModel")
StellarForImageClassification.register_for_auto_class("AutoModelForImageClassification")
StellarImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "StellarConfig",
    "StellarEncoding",
    "StellarForImageClassification",
    "StellarImageProcessor",
    "StellarModel",
    "StellarModelOutput",
    "StellarPreTrainedModel",
]
