"""What users write for labelled images."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from stellar_hub.data.labelled import open_labelled
from stellar_hub.data.sources import read_image


def test_every_kind__gives_the_same_images_and_classes(class_folders: Path, tmp_path: Path) -> None:
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
    for name in (class_folders, f"{tmp_path}/split.csv:a", tmp_path / "saved", f"{tmp_path}/part-*.parquet"):
        labelled = open_labelled(name)
        assert labelled.classes == ("cats", "dogs")
        assert labelled.labels == (0, 0, 1)
        for index, image in enumerate(expected):
            assert (read_image(labelled.images[index]) == image).all()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "no such folder: "),
        ("nowhere.csv:train", FileNotFoundError, "no such split file: "),
        ("nowhere.parquet", FileNotFoundError, "no such parquet file: "),
        ("animals/dogs/1.png", ValueError, "holds no labelled images: name a folder of class folders"),
    ],
)
def test_anything_else__is_refused(
    class_folders: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_labelled(tmp_path / name)
