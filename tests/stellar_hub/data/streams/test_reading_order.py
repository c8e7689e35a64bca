from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.streams import Cursor, DamagedShardError, Readers, StreamedImage


class Shards:
    """A stream of shards of these sizes. A negative size: the shard breaks off after as many images."""

    def __init__(self, sizes: list[int]):
        self.sizes = sizes
        self.shards = [f"shard {number}" for number in range(len(sizes))]

    def read(self, shard: int) -> Iterator[EncodedImage]:
        for number in range(abs(self.sizes[shard])):
            yield EncodedImage(f"{shard}/{number}", b"")
        if self.sizes[shard] < 0:
            raise DamagedShardError(f"shard {shard} breaks off")

    def fingerprint(self) -> str:
        return ""


def epoch_of(readers: Readers, reader: int, epoch: int = 0) -> list[StreamedImage]:
    """All images of one epoch of a reader."""
    found = []
    for image in readers.read(reader):
        if image.epoch > epoch:
            return found
        if image.epoch == epoch:
            found.append(image)
    return found


SIZES = st.lists(st.integers(-5, 40).filter(bool), min_size=1, max_size=9)


class TestRead:
    @given(sizes=SIZES, seed=st.integers(0, 5), epoch=st.integers(0, 2))
    @settings(max_examples=40, deadline=None)
    def test_epoch__has_every_image_once_over_all_readers(self, sizes: list[int], seed: int, epoch: int) -> None:
        readers = Readers(Shards(sizes), seed)
        found = [image for reader in range(readers.count) for image in epoch_of(readers, reader, epoch)]
        names = [str(image.image) for image in found]
        assert sorted(names) == sorted(f"{s}/{n}" for s, size in enumerate(sizes) for n in range(abs(size)))
        assert len({image.index for image in found}) == len(found)

    @given(sizes=SIZES, seed=st.integers(0, 5), after=st.integers(0, 90))
    @settings(max_examples=40, deadline=None)
    def test_cursor__continues_where_it_was(self, sizes: list[int], seed: int, after: int) -> None:
        readers = Readers(Shards(sizes), seed)
        whole = list(islice(readers.read(0), after + 20))
        cursor = whole[after - 1].cursor if after else Cursor()
        resumed = list(islice(readers.read(0, cursor), 20))
        plain = [(str(p.image), p.epoch, p.index, p.cursor) for p in whole[after:]]
        assert [(str(p.image), p.epoch, p.index, p.cursor) for p in resumed] == plain

    def test_order__never_changes(self) -> None:
        # A run that is resumed after an update depends on it, and on the cursors in its checkpoint.
        readers = Readers(Shards([3, 9, 2]), 5)
        readers.count, readers.block_size = 1, 8
        found = [(str(image.image), image.index, tuple(image.cursor)) for image in islice(readers.read(0), 6, 10)]
        assert found == [
            ("1/5", 4294967301, (0, 0, 0, 7)),
            ("1/4", 4294967300, (0, 0, 8, 0)),
            ("0/2", 2, (0, 0, 8, 1)),
            ("0/1", 1, (0, 0, 8, 2)),
        ]

    def test_order__is_another_in_each_epoch_and_for_each_seed(self) -> None:
        orders = [
            [str(image.image) for image in epoch_of(Readers(Shards([30]), seed), 0, epoch)]
            for seed, epoch in ((0, 0), (0, 1), (1, 0))
        ]
        assert len({tuple(order) for order in orders}) == 3
        assert all(order != sorted(order) for order in orders)

    def test_blocks__reach_over_small_shards(self) -> None:
        readers = Readers(Shards([3] * 5), 0)
        readers.count, readers.block_size = 1, 8
        first = {str(image.image).split("/")[0] for image in islice(readers.read(0), 8)}
        assert len(first) == 3

    def test_damaged_shard__is_named_once_and_skipped(self) -> None:
        readers = Readers(Shards([-2]), 0)
        found = epoch_of(readers, 0)
        assert len(found) == 2
        assert Counter(entry for image in found for entry in image.damaged) == {"shard 0 breaks off": 1}

    def test_empty_shards__are_passed_over_by_every_reader(self) -> None:
        sizes = [5, 0, 0, 3]  # four readers with a shard each
        readers = Readers(Shards(sizes), 0)
        for reader in range(readers.count):
            assert len(list(islice(readers.read(reader), 20))) == 20

    def test_many_empty_shards_in_a_row__are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stellar_hub.data.streams.reading_order.MAX_EMPTY_SHARDS", 3)
        with pytest.raises(ValueError, match="no images in shard"):
            next(Readers(Shards([0] * 9), 0).read(0))

    def test_reader_without_images__is_an_error(self) -> None:
        stream = Shards([1])
        stream.sizes = [0]
        with pytest.raises(ValueError, match="no images in shard 0"):
            next(Readers(stream, 0).read(0))


class TestReaders:
    def test_count__follows_from_the_shards_alone(self) -> None:
        counts = {1: 1, 2: 2, 5: 4, 7: 6, 30: 24, 1000: 96}
        assert {shards: Readers(Shards([1] * shards), 0).count for shards in counts} == counts

    @given(shards=st.integers(1, 100), num_processes=st.integers(1, 12))
    def test_processes__share_them_evenly_or_are_told(self, shards: int, num_processes: int) -> None:
        readers = Readers(Shards([1] * shards), 0)
        if readers.count % num_processes:
            with pytest.raises(ValueError, match=rf"^{shards} .* {readers.count} readers.* use 1\b"):
                readers.for_process(0, num_processes)
        else:
            own = [readers.for_process(rank, num_processes) for rank in range(num_processes)]
            assert sorted(reader for part in own for reader in part) == list(range(readers.count))
            assert len({len(part) for part in own}) == 1
