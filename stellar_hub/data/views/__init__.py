"""Views of images: crops and photometric augmentation, the samples of pretraining, and their order in a run.

What is drawn for an image, and how it is applied, belongs here. Every draw comes from a generator that is passed in.
"""

from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.data.views.crops import View, ViewSettings, cut_views, draw_views, plan_views, render_views
from stellar_hub.data.views.multi_crop_dataset import MultiCropDataset, ResumableBatchSampler
from stellar_hub.data.views.photometric import PhotometricSettings, apply_photometric, draw_photometric
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples, to_uint8

__all__ = [
    "AugmentedView",
    "MultiCropDataset",
    "PhotometricSettings",
    "ResumableBatchSampler",
    "View",
    "ViewMaker",
    "ViewSettings",
    "apply_photometric",
    "collate_samples",
    "cut_views",
    "draw_photometric",
    "draw_views",
    "plan_views",
    "render_views",
    "to_uint8",
]
