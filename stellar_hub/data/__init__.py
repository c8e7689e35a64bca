"""Images for training, extraction and evaluation: where they come from, in which order, and what is cut out of them.

What reads, labels, orders, crops or draws images belongs here. What a model makes of them does not.
"""

from stellar_hub.data.labelled import LabelledImages, SegmentationImages, open_labelled, read_segmentation_folder
from stellar_hub.data.scenes import SCENE_CLASSES, Scene, draw_scene
from stellar_hub.data.sources import (
    EncodedImage,
    ImageFolder,
    ImageList,
    ImageSource,
    ImageTable,
    JoinedSources,
    StoredSource,
    TarShards,
    open_source,
    open_sources,
    read_image,
    sample_images,
)
from stellar_hub.data.streams import (
    DamagedShardError,
    ImageStream,
    Readers,
    StreamBatches,
    TableStream,
    TarStream,
    open_images,
    open_stream,
)
from stellar_hub.data.views import (
    AugmentedView,
    MultiCropDataset,
    PhotometricSettings,
    ResumableBatchSampler,
    ViewMaker,
    ViewSettings,
    apply_photometric,
    collate_samples,
    cut_views,
)
from stellar_hub.data.workers import default_num_workers

__all__ = [
    "SCENE_CLASSES",
    "AugmentedView",
    "DamagedShardError",
    "EncodedImage",
    "ImageFolder",
    "ImageList",
    "ImageSource",
    "ImageStream",
    "ImageTable",
    "JoinedSources",
    "LabelledImages",
    "MultiCropDataset",
    "PhotometricSettings",
    "Readers",
    "ResumableBatchSampler",
    "Scene",
    "SegmentationImages",
    "StoredSource",
    "StreamBatches",
    "TableStream",
    "TarShards",
    "TarStream",
    "ViewMaker",
    "ViewSettings",
    "apply_photometric",
    "collate_samples",
    "cut_views",
    "default_num_workers",
    "draw_scene",
    "open_images",
    "open_labelled",
    "open_source",
    "open_sources",
    "open_stream",
    "read_image",
    "read_segmentation_folder",
    "sample_images",
]
