"""All protocols together."""

from pathlib import Path

from stellar_hub.data.labelled import read_segmentation_folder
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.mask_splits import prepare_segmentation
from stellar_hub.evaluation.protocols.knn import KnnProtocol
from stellar_hub.evaluation.protocols.linear import LinearProtocol
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol
from stellar_hub.evaluation.protocols.scorecard import ScorecardProtocol, evaluate_all
from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone

QUICK = ScorecardProtocol(
    knn=KnnProtocol((3,)),
    linear=LinearProtocol((1e-2,), num_epochs=1, inverse_penalties=(1.0,)),
    segmentation=SegmentationProtocol(learning_rates=(1e-2,), num_epochs=1, num_clusters=2),
    reconstruction=ReconstructionProtocol(("psnr",)),
)


def test_all__is_what_data_and_models_allow(
    tiny: StellarBackbone,
    pixels: PixelBackbone,
    splits: Splits,
    mask_folders: tuple[Path, Path],
    run: RunSettings,
) -> None:
    train, test = (read_segmentation_folder(folder) for folder in mask_folders)
    masks = prepare_segmentation(train, test, run)
    reports = list(evaluate_all([tiny, pixels], splits, masks, QUICK, run))
    assert [each.task for each in reports] == ["knn", "linear", "segmentation", "reconstruction", "diagnostics"]
    assert [row.model for row in reports[3].measurements] == ["tiny", "mean colour"]
    without = [each.task for each in evaluate_all([pixels], splits, None, QUICK, run)]
    assert without == ["knn", "linear", "diagnostics"]
