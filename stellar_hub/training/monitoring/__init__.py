"""What a run measures and shows: the journal, meters of collapse, progress, previews, and the card's section.

Code belongs here if it records or shows a run and does not change it.
"""

from stellar_hub.training.monitoring.collapse_meters import collapse_meters
from stellar_hub.training.monitoring.journal import Journal, read_journal
from stellar_hub.training.monitoring.previews import draw_preview, fixed_images, some_images
from stellar_hub.training.monitoring.probes import Probe
from stellar_hub.training.monitoring.progress import RunProgress
from stellar_hub.training.monitoring.quantities import QUANTITIES, Quantity, curves_of
from stellar_hub.training.monitoring.training_card import training_section, write_training_card

__all__ = [
    "QUANTITIES",
    "Journal",
    "Probe",
    "Quantity",
    "RunProgress",
    "collapse_meters",
    "curves_of",
    "draw_preview",
    "fixed_images",
    "read_journal",
    "some_images",
    "training_section",
    "write_training_card",
]
