import errno
import multiprocessing
import os
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from stellar_hub.data.sources import TarShards, read_image, tar_shards
from stellar_hub.data.sources.open_files import OpenFiles
from stellar_hub.data.sources.tar_shards import index_tar
from stellar_hub.data.views import MultiCropDataset, ResumableBatchSampler, ViewSettings, collate_samples
from tests.stellar_hub.data.sources.conftest import png, write_tar

# Fingerprint of a.tar with one image of 3 bytes. Checkpoints and stores hold fingerprints, so they stay as they are.
FINGERPRINT = "fc5cfdc6df67be5e0230911bd386e65eab2fa03d047ca30ab56005e3b465e51d"


def test_index__finds_the_bytes_of_images(shards: list[Path]) -> None:
    index = index_tar(shards[0])
    data = shards[0].read_bytes()
    assert list(index.names) == ["0-0.png", "0-1.png", "0-2.png"]
    assert index.damage is None
    for color, (offset, size) in enumerate(zip(index.offsets, index.sizes, strict=True)):
        assert data[offset : offset + size] == png(color)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_index__reads_every_format_with_long_and_odd_names(tmp_path: Path, tar_format: int) -> None:
    names = ["a/" + "b" * 60 + "/" + "c" * 60 + ".png", "é .JPG"]
    path = write_tar(tmp_path / "a.tar", dict.fromkeys(names, png(1)), format=tar_format)
    assert list(index_tar(path).names) == names


def test_index__skips_what_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"a.txt": b"x", ".hidden.png": b"x", "sub/._a.png": b"x", "no-suffix": b"x", "b.left.png": png(1)})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("folder.png", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    assert list(index_tar(path).names) == ["b.left.png"]


def test_cut_short__keeps_what_is_before(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    middle = int(whole.offsets[2]) + 10  # inside the third image
    shards[0].write_bytes(shards[0].read_bytes()[:middle])
    index = index_tar(shards[0])
    assert list(index.names) == ["0-0.png", "0-1.png"]
    assert index.damage == "0-2.png is cut short"


def test_damaged_header__costs_its_image_alone(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    data = bytearray(shards[0].read_bytes())
    header = int(whole.offsets[1]) - 512
    data[header : header + 512] = b"\xaa" * 512
    shards[0].write_bytes(data)
    index = index_tar(shards[0])
    assert list(index.names) == ["0-0.png", "0-2.png"]
    assert str(header) in str(index.damage)


def test_missing_end__is_said(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    end = int(whole.offsets[2] + whole.sizes[2] + 511) // 512 * 512
    shards[0].write_bytes(shards[0].read_bytes()[:end])
    index = index_tar(shards[0])
    assert len(index.names) == 3
    assert "end mark" in str(index.damage)


def test_links__stand_for_images_of_the_same_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x/a.png": png(1), "blob": png(2), "z.png": png(3)})
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "x/a.png"),
            ("x/soft.png", tarfile.SYMTYPE, "../blob"),
            ("out.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    source = TarShards.scan([path])
    assert [str(image) for image in source] == [
        f"a.tar/{name}" for name in ("x/a.png", "z.png", "hard.png", "x/soft.png")
    ]
    assert colors(source, [0, 1, 2, 3]) == [1, 3, 1, 2]
    assert source.damaged == ()
    assert any("out.png" in note for note in source.notes)


def test_image_above_the_limit__costs_itself_alone(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(shards[1], {"1-0.png": bytes(3000)})
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "2000")
    source = TarShards.scan(shards)
    assert source[2].data == png(2)
    with pytest.raises(ValueError, match=r"shard-001\.tar/1-0\.png has 3,000 bytes"):
        read_image(source[3])


def test_empty_file__is_damaged_and_the_others_stay(shards: list[Path]) -> None:
    shards[1].write_bytes(b"")
    source = TarShards.scan(shards)
    assert len(source) == 5
    assert source.damaged == (f"{shards[1]}: it is empty",)


def test_notes__count_what_is_passed_over_in_all_tars(shards: list[Path], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "s.tar", {"a.jpg": b"x", "a.seg.png": b"x", "b.xyz": b"x"})
    none = write_tar(tmp_path / "none.tar", {"readme": b"x"})
    notes = TarShards.scan([*shards, tar, none]).notes
    assert [note for note in notes if "a.seg.png" in note]
    assert [note for note in notes if "8 files" in note and ".cls" in note and ".xyz" in note]
    assert [note for note in notes if "none.tar" in note]


def test_stamp__changes_with_the_tar(shards: list[Path]) -> None:
    before = TarShards.scan(shards)
    assert before.stamp(0) != before.stamp(1)
    assert before.stamp(0) == TarShards.scan(shards).stamp(0)
    write_tar(shards[0], {f"0-{number}.png": png(9) for number in range(3)})
    os.utime(shards[0], ns=(1, 1))
    after = TarShards.scan(shards)
    assert after.stamp(0) != before.stamp(0)
    assert after.stamp(5) == before.stamp(5)
    with pytest.raises(IndexError):
        before.stamp(6)


def test_tar_of_another_size__is_not_read(shards: list[Path]) -> None:
    source = TarShards.scan(shards)
    with shards[0].open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ValueError, match=r"shard-000\.tar .*open it again"):
        source[0]


def test_disk_that_fails__names_the_image(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    source = TarShards.scan(shards)
    monkeypatch.setattr("os.pread", fail)
    with pytest.raises(OSError, match=r"shard-000\.tar/0-1\.png") as error:
        source[1]
    assert error.value.errno == errno.EIO


def test_open_files__are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.sources.open_files.MAX_OPEN_FILES", 3)
    monkeypatch.setattr(tar_shards, "_open_files", OpenFiles())  # earlier tests may have left some open
    source = TarShards.scan([write_tar(tmp_path / f"{n}.tar", {"a.png": png(n)}) for n in range(8)])
    before = len(os.listdir("/proc/self/fd"))
    assert colors(source, [*range(8), 0, 7, 5]) == [*range(8), 0, 7, 5]
    assert len(os.listdir("/proc/self/fd")) == before + 3


def test_open_files__are_bounded_over_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.sources.open_files.MAX_OPEN_FILES", 3)
    monkeypatch.setattr(tar_shards, "_open_files", OpenFiles())  # earlier tests may have left some open
    sources = [TarShards.scan([write_tar(tmp_path / f"{n}.tar", {"a.png": png(n)})]) for n in range(8)]
    before = len(os.listdir("/proc/self/fd"))
    assert [colors(source, [0]) for source in [*sources, *sources]] == [[n] for n in [*range(8), *range(8)]]
    assert len(os.listdir("/proc/self/fd")) == before + 3


def test_address__is_refused_without_its_secrets() -> None:
    with pytest.raises(ValueError, match="stream:") as error:
        TarShards.scan(["https://me:SECRET@host/a.tar?sig=SECRET"])
    assert "SECRET" not in str(error.value)


def test_other_files__are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    (tmp_path / "text.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(ValueError, match=r"packed\.tar .*compressed"):
        index_tar(tmp_path / "packed.tar")
    with pytest.raises(ValueError, match=r"text\.tar "):
        index_tar(tmp_path / "text.tar")
    with pytest.raises(FileNotFoundError, match=r"gone\.tar"):
        index_tar(tmp_path / "gone.tar")


def colors(source: TarShards, indices: list[int]) -> list[int]:
    return [int(read_image(source[index])[0, 0, 0]) for index in indices]


def test_scan__gives_the_images_shard_by_shard(shards: list[Path]) -> None:
    source = TarShards.scan(shards)
    assert len(source) == 6
    assert colors(source, list(range(6))) == list(range(6))
    assert [str(image) for image in source][3:5] == ["shard-001.tar/1-0.png", "shard-002.tar/2-0.png"]
    assert source.damaged == ()


def test_scan__names_shards_that_are_cut_short(shards: list[Path]) -> None:
    shards[0].write_bytes(shards[0].read_bytes()[:3000])
    source = TarShards.scan(shards)
    assert len(source) < 6
    assert len(source.damaged) == 1
    assert source.damaged[0].startswith(f"{shards[0]}: ")


def test_forked_workers__read_the_same_images(shards: list[Path]) -> None:
    source = TarShards.scan(shards)
    assert source[5].data == png(5)  # this process has a file open
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(source.__getitem__, list(range(6)) * 4)
    assert [image.data for image in found] == [png(color) for color in range(6)] * 4
    assert source[0].data == png(0)


@pytest.mark.parametrize(("num_processes", "num_workers"), [(1, 2), (2, 2), (3, 0), (4, 0)])
def test_processes__share_an_epoch_without_loss_or_repeats_and_resume_anywhere(
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
        assert seen == {str(image): 2 for image in source}
    assert [paths(2, process) for process in range(num_processes)] == [process[2:] for process in whole]


def test_pickled_and_dropped__closes_its_files(shards: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = pickle.loads(pickle.dumps(TarShards.scan(shards)))
    assert [image.data for image in source] == [png(color) for color in range(6)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_fingerprint__is_the_same_elsewhere_and_changes_with_names_sizes_and_order(
    shards: list[Path], tmp_path: Path
) -> None:
    before = TarShards.scan(shards).fingerprint()
    assert TarShards.scan([write_tar(tmp_path / "a.tar", {"a.png": b"xyz"})]).fingerprint() == FINGERPRINT
    (tmp_path / "moved").mkdir()
    moved = [Path(shutil.copy(shard, tmp_path / "moved")) for shard in shards]
    assert TarShards.scan(moved).fingerprint() == before
    seen = [before, TarShards.scan(shards[::-1]).fingerprint(), TarShards.scan(shards[:2]).fingerprint()]
    write_tar(shards[1], {"1-0.png": png(3, side=99)})
    seen.append(TarShards.scan(shards).fingerprint())
    write_tar(shards[1], {"1-1.png": png(3, side=99)})
    seen.append(TarShards.scan(shards).fingerprint())
    assert len(set(seen)) == len(seen)


def test_scan__refuses_what_has_no_images_or_is_given_twice(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tar file"):
        TarShards.scan([])
    with pytest.raises(ValueError, match=r"twice: .*shard-001\.tar$"):
        TarShards.scan([*shards, shards[1]])
    with pytest.raises(ValueError, match=r"no images in .*a\.tar; 1 file is .*\.txt"):
        TarShards.scan([write_tar(tmp_path / "a.tar", {"a.txt": b"x"})])


def test_names__are_those_of_the_images(shards: list[Path]) -> None:
    source = TarShards.scan(shards)
    assert [source.image_name(index) for index in range(len(source))] == [image.name for image in source]
