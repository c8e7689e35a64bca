"""`stellar-hub export`."""

from pathlib import Path

from .conftest import Command


def test_export__says_how_far_each_graph_is_from_the_model(
    command: Command, model_folder: Path, tmp_path: Path
) -> None:
    result = command("export", "torch-export", "-m", model_folder, "-o", tmp_path / "out", "--height", 16)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("largest relative difference") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["decoder.pt2", "encoder.pt2"]


def test_export__refuses_a_size_that_does_not_fit(command: Command, model_folder: Path, tmp_path: Path) -> None:
    result = command("export", "torch-export", "-m", model_folder, "-o", tmp_path / "out", "--width", 30)
    assert result.exit_code == 2
    assert "--width must be a multiple of 8 pixels" in result.stderr
    assert "24 or 32" in result.stderr
    assert not (tmp_path / "out").exists()


def test_export__takes_one_size_in_one_way(command: Command, model_folder: Path, tmp_path: Path) -> None:
    arguments = ["export", "torch-export", "-m", model_folder, "-o", tmp_path / "out", "--image-size"]
    for more, message in ((["16x24", "--height", 16], "--height and --width"), (["16x25"], "such as 16x24; got 16x25")):
        refused = command(*arguments, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_export__refuses_an_output_that_exists(command: Command, model_folder: Path, tmp_path: Path) -> None:
    result = command("export", "torch-export", "-m", model_folder, "-o", tmp_path)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
