"""Training a classifier on labelled images: its settings, images and models, the loop, and the report.

Code belongs here if only a run that trains a classifier needs it.
"""

from stellar_hub.training.finetuning.loop import finetune
from stellar_hub.training.finetuning.report import FinetuneReport
from stellar_hub.training.finetuning.settings import LEARNING_RATES, FinetuneSettings

__all__ = ["LEARNING_RATES", "FinetuneReport", "FinetuneSettings", "finetune"]
