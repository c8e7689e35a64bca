from pathlib import Path

import pytest
import torch

from stellar_hub.data.streams import TarStream
from stellar_hub.data.streams.reading_order import MAX_IN_SHARD
from stellar_hub.features.in_memory import extract_features
from stellar_hub.modeling import StellarModel
from tests.stellar_hub.data.sources.conftest import png, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Three unequal tars, with a damaged image, and one that is cut short."""
    paths = []
    for shard, count in enumerate((5, 2, 4)):
        members = {f"{n}.png": png(10 * shard + n, side=40) for n in range(count)}
        paths.append(
            str(write_tar(tmp_path / f"{shard}.tar", members | ({"bad.png": b"damaged"} if shard == 0 else {})))
        )
    whole = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(whole[: 2 * 1024 + 530])
    return paths


ROWS = [0, 1, 2, 3, 4, 5, *(MAX_IN_SHARD + n for n in range(2)), *(2 * MAX_IN_SHARD + n for n in range(3))]
WITH_ERROR = [5, 2 * MAX_IN_SHARD + 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stream__gives_every_image_once(pixel_model: StellarModel, shards: list[str], num_workers: int) -> None:
    batches = list(extract_features(pixel_model, TarStream(shards), ["S"], batch_size=4, num_workers=num_workers))
    rows = torch.cat([batch.row_ids for batch in batches])
    ok = torch.cat([batch.ok for batch in batches])
    assert sorted(rows.tolist()) == ROWS
    assert sorted(rows[~ok].tolist()) == WITH_ERROR
    errors = {record.row: record.error for batch in batches for record in batch.records if record.error}
    assert "2.tar" in errors[WITH_ERROR[1]]


@pytest.mark.parametrize("num_processes", [2, 3, 4])
def test_processes__share_the_shards(
    pixel_model: StellarModel, shards: list[str], num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    for rank in range(num_processes):
        monkeypatch.setenv("RANK", str(rank))
        for batch in pixel_model.extract("stream:" + shards[0].replace("0.tar", "{0..2}.tar"), ["S"]):
            rows += batch.row_ids.tolist()
    assert sorted(rows) == ROWS


def test_features__are_those_of_the_same_image_elsewhere(
    pixel_model: StellarModel, shards: list[str], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(png(11, side=40))
    (expected,) = extract_features(pixel_model, [tmp_path / "one.png"], ["S"])
    (batch,) = extract_features(pixel_model, TarStream(shards[1:2]), ["S"])
    torch.testing.assert_close(batch["S"][1:], expected["S"], rtol=1e-5, atol=1e-5)
