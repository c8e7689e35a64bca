"""Baselines: Barlow Twins, SwAV, DINO and LeJEPA as terms of the trainer. Losses and heads are those of lightly.

Here is what surrounds them: the features that they compare, the rows of all processes, float32 inside autocast, and
their state, which checkpoints keep. They are arXiv 2103.03230, 2006.09882, 2104.14294 and 2511.08544.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.extras import require
from stellar_hub.modeling import StellarConfig
from stellar_hub.training.model.memory import num_processes
from stellar_hub.training.model.views import EncodedViews, encode_views

MAX_SEED = 2**62


def require_lightly(baseline_loss: object) -> Any:
    """Imports lightly for a baseline, and returns it.

    Raises:
        ImportError: if it is not installed, or too old; the message has the command that installs it.
    """
    return require("lightly.loss.lejepa_loss", "baselines", f"baseline_loss={baseline_loss!r}")


def check_baseline(config: StellarConfig, num_global_views: int, num_local_views: int, batch_size: int) -> None:
    """Checks that there are the views and images that a baseline compares; without a baseline it does nothing.

    Args:
        config: Configuration of the model.
        num_global_views: Number of global views per image.
        num_local_views: Number of local views per image.
        batch_size: Number of images of a batch over all processes.

    Raises:
        ValueError: if there are too few; the message names the baseline.
    """
    if config.baseline_loss is None:
        return
    subject = f"baseline_loss={config.baseline_loss!r}"
    if num_global_views < 2:
        raise ValueError(f"{subject} needs at least 2 global views per image, got num_global_views={num_global_views}")
    if config.baseline_loss == "lejepa" and num_local_views < 1:
        raise ValueError(f"{subject} needs at least 1 local view per image, got num_local_views={num_local_views}")
    if batch_size < 2:
        raise ValueError(f"{subject} needs at least 2 images per batch, got batch_size={batch_size}")


class BaselineHead(nn.Module):
    """The projection head of a baseline: from features to what its loss compares.

    `prototype_hidden_size` is its hidden width, `prototype_dim` the width of its embeddings, and `num_prototypes` the
    number of outputs of SwAV and DINO. Barlow Twins compares vectors as wide as its hidden layers. Batch norms use the
    statistics of the batch alone, so a forward changes no state. SwAV's prototypes are normalized in each forward, as
    the weights of DINO's last layer are.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        heads = require_lightly(config.baseline_loss).models.modules.heads
        width, hidden, embedding = config.hidden_size, config.prototype_hidden_size, config.prototype_dim
        self.prototypes = None
        if config.baseline_loss == "barlow_twins":
            self.projection = heads.BarlowTwinsProjectionHead(width, hidden, hidden)
        elif config.baseline_loss == "swav":
            self.projection = heads.SwaVProjectionHead(width, hidden, embedding)
            self.prototypes = heads.SwaVPrototypes(embedding, config.num_prototypes)
        elif config.baseline_loss == "dino":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of torch, on the weight norm that lightly uses
                self.projection = heads.DINOProjectionHead(width, hidden, embedding, config.num_prototypes)
        else:
            self.projection = heads.LeJEPAProjectionHead(width, hidden, embedding)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None

    def forward(self, features: Tensor) -> Tensor:
        """Projects the features of one view, `(N, d)`, to `(N, outputs)`."""
        projected: Tensor = self.projection(features)
        if self.prototypes is None:
            return projected
        layer = self.prototypes.heads[0]
        return F.linear(F.normalize(projected, dim=1), F.normalize(layer.weight, dim=1), layer.bias)


class BaselineLoss(NamedTuple):
    """What a baseline makes of the features of a batch.

    Attributes:
        loss: The loss, a scalar.
        projections: Outputs of the head for global view 0, `(N, outputs)`, detached; for SwAV and DINO the
            distributions over prototypes that they give.
        center: DINO's next center for `write_center`, `(1, 1, K)`; None for the others.
    """

    loss: Tensor
    projections: Tensor
    center: Tensor | None


class BaselineResult(NamedTuple):
    """What a baseline makes of a batch of images.

    Attributes:
        loss: The loss over the images of all processes, a scalar, the same in each of them.
        projections: Those of this process's images, `(B, outputs)`.
        center: DINO's next center, or None.
        first: The encoding of global view 0 of this process's images, `B` of them, detached.
    """

    loss: Tensor
    projections: Tensor
    center: Tensor | None
    first: EncodedViews


class Baseline(nn.Module):
    """The head and the loss of a baseline, and the state of the loss.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        self.config = config
        self.head = BaselineHead(config)
        losses = require_lightly(config.baseline_loss).loss
        if config.baseline_loss == "barlow_twins":
            self.loss = losses.BarlowTwinsLoss()
        elif config.baseline_loss == "swav":
            self.loss = losses.SwaVLoss()
        elif config.baseline_loss == "dino":
            self.loss = losses.DINOLoss(config.num_prototypes)
        else:
            self.loss = losses.LeJEPALoss()

    def forward(
        self,
        global_features: Sequence[Tensor],
        local_features: Sequence[Tensor],
        teacher_outputs: Sequence[Tensor],
        generator: torch.Generator | None,
    ) -> BaselineLoss:
        """Computes the loss of features `(N, d)` of each global and each local view; it changes no state.

        Args:
            global_features: Features of global views, two for Barlow Twins, two or more for others.
            local_features: Features of local views; none for Barlow Twins.
            teacher_outputs: Outputs of the teacher's head for the global views; DINO alone reads them.
            generator: Source on the CPU of LeJEPA's random directions; None uses torch's global one.
        """
        method, loss, following, temperature = self.config.baseline_loss, self.loss, None, None
        whole = [self.head(view) for view in global_features]
        local = [self.head(view) for view in local_features]
        if method == "barlow_twins":
            value = loss(*whole)
        elif method == "swav":
            value, temperature = loss(whole, local), loss.temperature
        elif method == "dino":
            center = loss.center.data
            value, temperature = loss(list(teacher_outputs), whole + local), loss.student_temp
            loss.center.data, following = center, loss.center.data
        else:
            with seeded_by(generator, whole[0].device):
                value = loss(local_proj=torch.stack(local), global_proj=torch.stack(whole))
        seen = whole[0].detach()
        seen = seen if temperature is None else torch.softmax(seen / temperature, dim=-1)
        return BaselineLoss(value.reshape(()), seen, following)

    @torch.no_grad()
    def initialize(self) -> None:
        """Gives weights and buffers the values that lightly begins with; transformers has set its own, or none."""
        with torch.device("cpu"):
            fresh = Baseline(self.config)
        for tensor, value in zip(self.state_dict().values(), fresh.state_dict().values(), strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def write_center(self, center: Tensor | None) -> None:
        """Sets DINO's center to what a forward has returned; None changes nothing."""
        if center is not None:
            self.loss.center.copy_(center)

    def measure(self, batch: Any) -> BaselineResult:
        """Encodes the views of a batch without a mask, and computes the loss over the images of all processes.

        Each process computes head and loss for all of them, in at least float32.

        Args:
            batch: An `ObjectiveBatch`.
        """
        of_pairs = self.config.baseline_loss == "barlow_twins"
        global_views = batch.global_views[:, :2] if of_pairs else batch.global_views
        local = None if of_pairs else batch.encoded_local
        num_images, num_views = global_views.shape[:2]
        num_local_views = 0 if local is None else len(local.tokens) // num_images
        check_baseline(self.config, num_views, num_local_views, num_images * num_processes())
        pixels = global_views.flatten(0, 1)
        views = encode_views(batch.model.stellar.encoder, pixels)
        teacher: Any = batch.model.teacher if self.config.baseline_loss == "dino" else None
        with torch.no_grad():
            targets = None if teacher is None else encode_views(teacher.encoder, pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            whole = self._rows_of_all(views, num_views)
            parts = [] if local is None else self._rows_of_all(local, num_local_views)
            with torch.no_grad():
                rows = [] if targets is None else self._rows_of_all(targets, num_views)
                teacher_outputs = [teacher.baseline_head(view) for view in rows]
            found = self(whole, parts, teacher_outputs, batch.generator)
        own = found.projections.unflatten(0, (-1, num_images))[dist.get_rank() if num_processes() > 1 else 0]
        first = EncodedViews(*(part.detach().unflatten(0, (-1, num_views))[:, 0] for part in views))
        return BaselineResult(found.loss, own, found.center, first)

    def features_of(self, views: EncodedViews) -> Tensor:
        """Returns what the baseline compares of encoded views: the mean of their sparse tokens, or cls, `(N, d)`."""
        return views.cls_token if self.config.baseline_feature == "cls" else views.tokens.mean(dim=1)

    def _rows_of_all(self, views: EncodedViews, num_views: int) -> list[Tensor]:
        """Returns the features of each view of the images of all processes, `(N, d)` each, with their gradients."""
        features = self.features_of(views)
        features = features.to(torch.promote_types(features.dtype, torch.float32)).unflatten(0, (-1, num_views))
        if num_processes() > 1:
            gather = require_lightly(self.config.baseline_loss).utils.dist.gather
            features = torch.cat(gather(features.contiguous()))
        return list(features.unbind(1))


@contextmanager
def seeded_by(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators from another one meanwhile, for code that draws from them.

    Args:
        generator: Source of the seed, on the CPU; None uses torch's global one.
        device: Device that the code draws on.
    """
    seed = int(torch.randint(MAX_SEED, (), generator=generator))
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        torch.manual_seed(seed)
        yield
