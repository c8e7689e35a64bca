import pytest

from stellar_hub.data.sources import JoinedSources
from stellar_hub.features.backbones import open_backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.modeling import StellarModel
from stellar_hub.store.plan import ExtractionOptions, absolute, batches_of, check_source, make_plan, owned_shards

from .conftest import OPTIONS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype must be .*int8, got 'int4'"),
        ({"precision": "double"}, "precision must be .*got 'double'"),
        ({"shard_rows": 0}, "shard_rows must be at least 1, got 0"),
        ({"outputs": ("S", "mean")}, "outputs must be .*got mean"),
    ],
)
def test_options__are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractionOptions(**options)  # type: ignore[arg-type]


def test_batches__never_cross_shards(pixel_model: StellarModel, source: JoinedSources) -> None:
    plan = make_plan(as_backbone(pixel_model), source, OPTIONS)
    assert plan.num_shards == 3
    assert batches_of(plan, 0) == [range(0, 3), range(3, 6), range(6, 8)]
    assert batches_of(plan, 2) == [range(16, 19), range(19, 22), range(22, 23)]


@pytest.mark.parametrize("num_processes", [2, 7])
def test_processes__share_all_shards(pixel_model: StellarModel, source: JoinedSources, num_processes: int) -> None:
    plan = make_plan(as_backbone(pixel_model), source, OPTIONS)
    owned = [shard for rank in range(num_processes) for shard in owned_shards(plan, rank, num_processes)]
    assert sorted(owned) == [0, 1, 2]


def test_features__that_a_backbone_lacks_are_refused(source: JoinedSources) -> None:
    with pytest.raises(ValueError, match=r"outputs must be .*patches.*got cls"):
        make_plan(open_backbone("pixels"), source, ExtractionOptions(("cls",)))


def test_source_without_fingerprint__is_refused() -> None:
    with pytest.raises(TypeError, match="got list"):
        check_source(["a.jpg"])


def test_names__are_kept_in_full() -> None:
    assert absolute("hub:owner/name") == "hub:owner/name"
    assert absolute("photos").startswith("/")
