import multiprocessing
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from stellar_hub.data.crops import ViewSettings
from stellar_hub.data.multi_crop import MultiCropDataset
from stellar_hub.data.sampling import ResumableBatchSampler
from stellar_hub.data.sources import TarShards, read_picture
from stellar_hub.data.view_maker import collate_samples
from tests.stellar_hub.data.sources.conftest import png, write_tar


def colors(source: TarShards, indices: list[int]) -> list[int]:
    return [int(read_picture(source[index])[0, 0, 0]) for index in indices]


def test_scan__gives_the_pictures_shard_by_shard(shards: list[Path]) -> None:
    source = TarShards.scan(shards)
    assert len(source) == 6
    assert colors(source, list(range(6))) == list(range(6))
    assert [str(picture) for picture in source][3:5] == ["shard-001.tar/1-0.png", "shard-002.tar/2-0.png"]
    assert source.damaged == ()


def test_scan__names_shards_that_are_cut_short(shards: list[Path]) -> None:
    shards[0].write_bytes(shards[0].read_bytes()[:3000])
    source = TarShards.scan(shards)
    assert len(source) < 6
    assert len(source.damaged) == 1
    assert source.damaged[0].startswith(f"{shards[0]}: ")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers__read_the_same_pictures_however_they_start(shards: list[Path], method: str) -> None:
    source = TarShards.scan(shards)
    assert source[5].data == png(5)  # this process has a file open
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(source.__getitem__, list(range(6)) * 4)
    assert [picture.data for picture in found] == [png(color) for color in range(6)] * 4
    assert source[0].data == png(0)


def test_loader__gives_each_picture_once(shards: list[Path]) -> None:
    loader = DataLoader(TarShards.scan(shards), batch_size=None, num_workers=2)  # type: ignore[arg-type]
    assert [picture.data for picture in loader] == [png(color) for color in range(6)]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes__share_an_epoch_without_loss_or_doubles_and_go_on_anywhere(
    shards: list[Path], num_processes: int, num_workers: int
) -> None:
    source, batch_size = TarShards.scan(shards), 12
    views = ViewSettings(8, 8, 1, 0, (0.5, 1.0), (0.5, 1.0), 0.5)
    dataset = MultiCropDataset(source, views, None, seed=0)

    def paths(start: int, process: int) -> list[list[str]]:
        sampler = ResumableBatchSampler(len(source), batch_size, 0, 3, start, process, num_processes)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_samples)
        return [batch["paths"] for batch in loader]

    whole = [paths(0, process) for process in range(num_processes)]
    for step in range(3):  # a batch is two epochs
        seen = Counter(path for process in whole for path in process[step])
        assert seen == {str(picture): 2 for picture in source}
    assert [paths(2, process) for process in range(num_processes)] == [process[2:] for process in whole]


def test_pickled_and_dropped__closes_its_files(shards: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = pickle.loads(pickle.dumps(TarShards.scan(shards)))
    assert [picture.data for picture in source] == [png(color) for color in range(6)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_fingerprint__is_the_same_elsewhere_and_changes_with_names_sizes_and_order(
    shards: list[Path], tmp_path: Path
) -> None:
    before = TarShards.scan(shards).fingerprint()
    (tmp_path / "moved").mkdir()
    moved = [Path(shutil.copy(shard, tmp_path / "moved")) for shard in shards]
    assert TarShards.scan(moved).fingerprint() == before
    seen = [before, TarShards.scan(shards[::-1]).fingerprint(), TarShards.scan(shards[:2]).fingerprint()]
    write_tar(shards[1], {"1-0.png": png(3, side=99)})
    seen.append(TarShards.scan(shards).fingerprint())
    write_tar(shards[1], {"1-1.png": png(3, side=99)})
    seen.append(TarShards.scan(shards).fingerprint())
    assert len(set(seen)) == len(seen)


class TestErrors:
    def test_none(self) -> None:
        with pytest.raises(ValueError, match="no tar file was given"):
            TarShards.scan([])

    def test_twice(self, shards: list[Path]) -> None:
        with pytest.raises(ValueError, match=r"given twice: .*shard-001\.tar$"):
            TarShards.scan([*shards, shards[1]])

    def test_no_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no pictures in .*a\.tar$"):
            TarShards.scan([write_tar(tmp_path / "a.tar", {"a.txt": b"x"})])

    @pytest.mark.parametrize("index", [-1, 6])
    def test_index_outside(self, shards: list[Path], index: int) -> None:
        with pytest.raises(IndexError, match=f"picture {index} of 6"):
            TarShards.scan(shards)[index]
