"""Training: the objective, and the loop around it. Nothing outside this folder imports it, the command line aside."""

from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.model.output import StellarPreTrainingOutput

__all__ = ["StellarForPreTraining", "StellarPreTrainingOutput"]
