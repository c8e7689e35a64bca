import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image


def png(color: int, side: int = 4) -> bytes:
    """A small image of one grey."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), color).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes], **options: object) -> Path:
    """A tar with these files, in this order."""
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three tars of 3, 1 and 2 images, named as WebDataset does, with labels between."""
    counts, paths, color = (3, 1, 2), [], 0
    for shard, count in enumerate(counts):
        members: dict[str, bytes] = {}
        for index in range(count):
            members[f"{shard}-{index}.cls"] = b"7"
            members[f"{shard}-{index}.png"] = png(color)
            color += 1
        paths.append(write_tar(tmp_path / f"shard-{shard:03d}.tar", members))
    return paths
