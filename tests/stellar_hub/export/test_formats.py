"""Graphs for other runtimes."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stellar_hub.export import export_model
from stellar_hub.export.formats import DecoderGraph, EncoderGraph, compare
from stellar_hub.modeling import StellarModel


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_torch_export__runs_at_any_batch_size(model: StellarModel, size: tuple[int, int], tmp_path: Path) -> None:
    graphs = export_model(model, tmp_path / "out", "torch-export", *size)
    assert [graph.file for graph in graphs] == ["encoder.pt2", "decoder.pt2"]
    encoder, decoder = (torch.export.load(tmp_path / "out" / graph.file).module() for graph in graphs)
    for batch_size in (1, 2, 5):
        images = torch.rand(batch_size, 3, *size)
        with torch.inference_mode():
            semantics, localization, cls_token = encoder(images)
            expected = model(images)
            decoded = model.decode(semantics, localization, grid_size=model.grid_size(*size))
            torch.testing.assert_close(decoder(semantics, localization), decoded, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(semantics, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(localization, expected.localization, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cls_token, expected.cls_token, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx__agrees_with_the_model(model: StellarModel, tmp_path: Path) -> None:
    graphs = export_model(model, tmp_path / "out", "onnx")
    assert [graph.file for graph in graphs] == ["encoder.onnx", "decoder.onnx"]
    assert max(graph.largest_difference for graph in graphs) < 1e-4


@pytest.mark.slow
def test_onnx__of_a_large_model_keeps_its_weights_beside_the_graph(
    build_model: Callable[..., StellarModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellar_hub.export.formats.MAX_BYTES_IN_GRAPH", 0)
    export_model(build_model(use_decoder=False), tmp_path / "out", "onnx")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoder.onnx", "encoder.onnx.data"}


def test_export__of_features_only_writes_the_encoder_alone(
    build_model: Callable[..., StellarModel], tmp_path: Path
) -> None:
    graphs = export_model(build_model(use_decoder=False), tmp_path / "out", "torch-export")
    assert [graph.file for graph in graphs] == ["encoder.pt2"]


def test_export__refuses_an_unknown_format(pixel_model: StellarModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch-export, onnx, got 'tflite'"):
        export_model(pixel_model, tmp_path / "out", "tflite")


def test_export__leaves_nothing_behind_when_it_fails(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellar_hub.export.formats.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="the exported EncoderGraph"):
        export_model(pixel_model, tmp_path / "out", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_compare__refuses_a_graph_that_computes_something_else(pixel_model: StellarModel) -> None:
    graph = EncoderGraph(pixel_model, 32, 32).eval()

    def wrong(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(1.01 * output for output in graph(images))

    with pytest.raises(ValueError, match="EncoderGraph"):
        compare(graph, wrong, lambda batch_size: (torch.rand(batch_size, 3, 32, 32),))


def test_decoder_graph__refuses_a_model_that_cannot_decode(build_model: Callable[..., StellarModel]) -> None:
    with pytest.raises(ValueError, match="cannot decode"):
        DecoderGraph(build_model(use_tokenizer=False), 32, 32)


def test_export__a_full_disk_is_an_error_that_names_the_file(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stellar_hub.modeling.atomic_write._PatientFile._write", refuse)
    with pytest.raises(OSError, match=r"No space left on device.*new/encoder\.pt2") as caught:
        export_model(pixel_model, tmp_path / "new", "torch-export")
    assert caught.value.filename == str(tmp_path / "new" / "encoder.pt2")
    assert list(tmp_path.iterdir()) == []


def test_export__makes_missing_folders(pixel_model: StellarModel, tmp_path: Path) -> None:
    export_model(pixel_model, tmp_path / "a" / "b", "torch-export")
    assert (tmp_path / "a" / "b" / "decoder.pt2").exists()


def test_export__refuses_offloaded_weights(pixel_model: StellarModel, tmp_path: Path) -> None:
    pixel_model.encoder.norm.to("meta")
    with pytest.raises(ValueError, match=r"encoder\.norm\.weight: load it without device_map"):
        export_model(pixel_model, tmp_path / "new", "torch-export")


@pytest.mark.parametrize("height", [0, -8, 800_000])
def test_export__refuses_sizes_out_of_range(height: int, pixel_model: StellarModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^height and width must be|the limit is"):
        export_model(pixel_model, tmp_path / "new", "torch-export", height, 800_000)


def test_torch_export__does_not_warn_of_its_file(
    pixel_model: StellarModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_model(pixel_model, tmp_path / "new", "torch-export")
    assert "archive file" not in caplog.text
