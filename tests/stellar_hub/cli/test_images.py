"""What a command reads, where it writes, and one run over all of it."""

import errno
import os
from pathlib import Path

import pytest
import typer
from PIL import Image

from stellar_hub.cli.images import APPLE_DOUBLE, Job, for_each, plan_jobs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders whose images have equal names, and what operating systems leave there."""
    folder = tmp_path / "photos"
    for name in ("cats/1.jpg", "dogs/1.jpg", "dogs/more/1.jpg", "top.jpg", "top.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    for name in (".DS_Store", "._top.jpg", "cats/._1.jpg", ".hidden/1.jpg", "Thumbs.db"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(APPLE_DOUBLE + bytes(100))
    return folder


def targets(jobs: list[Job], output: Path) -> list[str]:
    return sorted(str(job.target.relative_to(output)) for job in jobs)


MIRRORED = ["cats/1.out", "dogs/1.out", "dogs/more/1.out", "top.jpg.out", "top.png.out"]


def test_plan_jobs__mirrors_a_folder_without_hidden_files(photos: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([photos], tmp_path / "a" / "b", ".out", overwrite=False)
    assert targets(jobs, tmp_path / "a" / "b") == MIRRORED
    assert not (tmp_path / "a").exists()  # until there is something to write


def test_plan_jobs__of_a_pattern_is_that_of_the_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [path for path in photos.iterdir() if path.name not in (".DS_Store", ".hidden")]
    assert targets(plan_jobs(named, tmp_path / "out", ".out", overwrite=False), tmp_path / "out") == MIRRORED
    assert "files of the operating system (2" in capsys.readouterr().err


def test_plan_jobs__reads_a_file_once_however_often_it_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert targets(plan_jobs([photos, Path("photos/top.jpg")], tmp_path / "out", ".out", False), tmp_path / "out")
    assert "more than once" not in capsys.readouterr().err
    named = [photos, photos / "cats" / "1.jpg", Path("photos/cats/1.jpg")]
    assert targets(plan_jobs(named, tmp_path / "out", ".out", overwrite=False), tmp_path / "out") == MIRRORED
    assert "1.jpg is named more than once and is read once" in capsys.readouterr().err


@pytest.mark.parametrize("linked", [False, True])
def test_plan_jobs__refuses_the_folder_of_the_images(photos: Path, tmp_path: Path, linked: bool) -> None:
    output = photos
    if linked:
        output = tmp_path / "link"
        output.symlink_to(photos)
    with pytest.raises(ValueError, match="is the folder of the images"):
        plan_jobs([photos], output, ".out", overwrite=True)


def test_plan_jobs__passes_over_earlier_outputs_below_the_images(photos: Path) -> None:
    output = photos / "pages"
    for _ in range(2):
        jobs = plan_jobs([photos], output, ".png", overwrite=True)
        assert targets(jobs, output) == [name.replace(".out", ".png") for name in MIRRORED]
        for job in jobs:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(job.target)


def test_plan_jobs__needs_something_to_read(tmp_path: Path) -> None:
    (tmp_path / "Thumbs.db").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images are left"):
        plan_jobs([tmp_path / "Thumbs.db"], tmp_path / "out", ".out", overwrite=False)
    with pytest.raises(ValueError, match="no images in the folder"):
        plan_jobs([tmp_path / "empty"], tmp_path / "out", ".out", overwrite=False)
    assert not (tmp_path / "out").exists()


def test_plan_jobs__says_that_an_address_is_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^https://x\.y/z\.jpg is an address"):
        plan_jobs([Path("https://x.y/z.jpg")], tmp_path / "out", ".png", overwrite=False)


def test_for_each__goes_on_after_any_error_of_one_image(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(photos / name, photos / f"{name}.out") for name in ("top.jpg", "top.png", "cats/1.jpg")]

    def work(source: Path, target: Path) -> str:
        if source.name != "1.jpg":
            raise IndexError("of a decoder\x1b[31m")
        return f"{source.name} \x1b[31m"

    with pytest.raises(typer.Exit):
        for_each(jobs, work, debug=False)
    said = capsys.readouterr()
    assert said.out == "1.jpg \\x1b[31m\n"
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "error", "2 of 3 failed"]
    assert "top.jpg: of a decoder\\x1b" in said.err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device", "top.out"),
    ],
)
def test_for_each__ends_where_the_machine_is_full_and_names_the_file(photos: Path, error: Exception) -> None:
    done = []

    def work(source: Path, target: Path) -> str:
        done.append(source)
        raise error

    jobs = [Job(photos / name, photos / f"{name}.out") for name in ("top.jpg", "top.png")]
    with pytest.raises((MemoryError, OSError), match=r"top\."):
        for_each(jobs, work, debug=False)
    assert done == [photos / "top.jpg"]


def test_for_each__does_not_open_pipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(typer.Exit):
        for_each([Job(tmp_path / "a.jpg", tmp_path / "a.out")], lambda source, target: "", debug=False)
    assert "is not a regular file" in capsys.readouterr().err


def test_plan_jobs__never_replaces_an_input(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "top.png").symlink_to(photos / "top.png")
    with pytest.raises(ValueError, match="would replace"):
        plan_jobs([photos / "top.png"], tmp_path / "out", ".png", overwrite=True)


def test_plan_jobs__refuses_an_output_below_a_file(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"below .*top\.png, which is a file"):
        plan_jobs([photos], photos / "top.png" / "out", ".out", overwrite=False)
