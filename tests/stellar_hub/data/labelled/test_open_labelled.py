"""Labelled images by the names that users write, and class folders."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from stellar_hub.data.labelled import open_labelled
from stellar_hub.data.labelled.open_labelled import read_class_folders
from stellar_hub.data.sources import read_image
from stellar_hub.data.sources.image_source import stamp_of
from stellar_hub.data.sources.table import HubDataset


def test_every_kind__has_the_same_images_and_classes(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [
        class_folders / "cats" / "2.png",
        class_folders / "cats" / "old" / "3.jpg",
        class_folders / "dogs" / "1.png",
    ]
    labels = ["cats", "cats", "dogs"]
    (tmp_path / "split.csv").write_text(
        "path,label,split\n"
        + "".join(f"{p},{label},a\n" for p, label in zip(images, labels, strict=True))
        + f"{images[0]},cats,b\n"
    )
    features = Features({"image": Image(), "label": Value("string")})
    table = Dataset.from_dict({"image": [str(path) for path in images], "label": labels}, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "part-0.parquet"))
    expected = [read_image(image) for image in images]
    monkeypatch.setattr(HubDataset, "load", lambda self: {("owner/name", "train"): table}[self])
    tables = ("hub:owner/name", tmp_path / "saved", f"{tmp_path}/part-*.parquet")
    for name in (class_folders, f"{tmp_path}/split.csv:a", *tables):
        labelled = open_labelled(name, root=tmp_path)
        assert labelled.classes == ("cats", "dogs")
        assert labelled.labels == (0, 0, 1)
        for index, image in enumerate(expected):
            assert (read_image(labelled.images[index]) == image).all()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "nowhere"),
        ("nowhere.csv:train", FileNotFoundError, r"nowhere\.csv"),
        ("nowhere.parquet", FileNotFoundError, r"nowhere\.parquet"),
        ("animals/dogs/1.png", ValueError, r"1\.png .*\.csv, \.tsv.*hub:"),
    ],
)
def test_anything_else__is_refused(
    class_folders: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_labelled(tmp_path / name)


def test_class_folders__are_read_at_any_depth_class_by_class(class_folders: Path) -> None:
    labelled = read_class_folders(class_folders)
    assert labelled.classes == ("cats", "dogs")
    assert labelled.labels == (0, 0, 1)
    names = [Path(str(labelled.images[index])).relative_to(class_folders).as_posix() for index in range(3)]
    assert names == ["cats/2.png", "cats/old/3.jpg", "dogs/1.png"]


def test_other_folders__are_refused(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"dogs has no class folders.*dogs/cats/1\.jpg; 1 image lies"):
        read_class_folders(class_folders / "dogs")
    (class_folders / "birds").mkdir()
    with pytest.raises(ValueError, match="birds"):
        read_class_folders(class_folders)
    (tmp_path / "empty" / "birds").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images in .*empty.*\.jpg.* other"):
        read_class_folders(tmp_path / "empty")


def test_class_folders__say_what_they_pass_over(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "dogs" / "notes.txt").touch()
    (class_folders / "beside.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "4.png").touch()
    (class_folders / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (class_folders / "cats" / "dog.png").symlink_to(class_folders / "dogs" / "1.png")
    labelled = open_labelled(class_folders)
    assert labelled.classes == ("cats", "dogs")
    assert labelled.counts() == [3, 1]
    assert [note.split()[:2] for note in labelled.notes] == [["1", "file"], ["1", "link"], ["1", "image"]]
    assert open_labelled(class_folders, root=tmp_path).classes == ("cats", "dogs", "far")


def test_stamp__is_that_of_the_file(class_folders: Path) -> None:
    labelled = open_labelled(class_folders)
    assert labelled.stamp(2) == stamp_of([class_folders / "dogs" / "1.png"], 0) != ""


def test_root__must_be_a_folder(class_folders: Path) -> None:
    with pytest.raises(ValueError, match="root must be a folder"):
        open_labelled(class_folders, root=class_folders / "dogs" / "1.png")
