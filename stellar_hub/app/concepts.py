"""Search in a feature store by the chosen token, and drawings of what is found."""

import os
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.app.models import Models
from stellar_hub.app.session import Session
from stellar_hub.app.views import Value, figure
from stellar_hub.data import ImageSource, read_image
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.retrieval import search_concepts
from stellar_hub.store import FeatureStore
from stellar_hub.visualization import Region

MAX_HITS = 24
HIT_SIDE = 200  # pixels


class ConceptSearch:
    """A store that is searched by tokens.

    Args:
        path: Folder of the store, which must hold `S` and `L`.
        images: The images that it was made from, as `open_sources` takes them. None finds names without images: the
            names in a store may lead anywhere, so they are not opened.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if the store is damaged or lacks `S` or `L`, or the images are not those of the store.
    """

    def __init__(self, path: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]] | None = None):
        self.store = FeatureStore(path)
        missing = [name for name in ("S", "L") if name not in self.store.outputs]
        if missing:
            raise ValueError(
                f"{path} does not hold {' and '.join(missing)}, which a search by concept needs: extract it with "
                "--outputs S L"
            )
        self.source: ImageSource | None = self.store.source(images) if images else None

    def find(self, session: Session, models: Models, count: int) -> tuple[str, list[Value]]:
        """Finds the images that have the token most like the chosen one.

        Args:
            session: Session with a chosen token.
            models: The models of the page.
            count: Number of images to find, 1 to 24.

        Returns:
            A sentence about the search, and the images with captions.

        Raises:
            ValueError: if no token is chosen, or another model made the store.
        """
        token = session.chosen
        self._check_model(session, models)
        query = session.encoding.semantics[0, token]
        found = search_concepts(self.store, query, min(max(count, 1), MAX_HITS))
        columns = zip(found.rows[0].tolist(), found.tokens[0].tolist(), found.scores[0].tolist(), strict=True)
        hits = [self._hit(*column) for column in columns]
        sentence = f"The {len(hits)} of {len(self.store):,} images with the token most like token {token}."
        return sentence, hits

    def _check_model(self, session: Session, models: Models) -> None:
        made_by = self.store.manifest.model
        if models.load(session.model).weights_sha256 != made_by["weights_sha256"]:
            name = one_line(made_by["name"] or "without a name", 100)
            raise ValueError(f"another model made the store ({name}): choose it above, or name it with --model")

    def _hit(self, row: int, token: int, score: float) -> Value:
        record = self.store.records([row])[0]
        caption = f"{score:.2f} {one_line(Path(record.image).name, 60)}"
        if self.source is None or record.crop_box is None:
            return {"image": "", "caption": caption}
        localization = self.store.read("L", [row])[0].float()
        grid = tuple(self.store.manifest.features["grid_size"])
        region = Region(read_image(self.source[row]), localization, token, record.crop_box, grid, caption)
        return figure(region.draw(HIT_SIDE), caption)
