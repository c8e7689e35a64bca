"""The model that is trained: its modules and state, the views and targets of a batch, and the terms of the loss."""

from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining, StellarPreTrainingOutput

__all__ = ["StellarForPreTraining", "StellarPreTrainingOutput"]
