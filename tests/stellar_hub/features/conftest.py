"""A folder of images, some of them bad, and a store of the tiny model: as in the tests of the store."""

from tests.stellar_hub.store.conftest import extract, image_folder, shared_store, source  # noqa: F401
