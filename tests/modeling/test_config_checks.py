"""Configurations as files from elsewhere: what is read of them, and how large a model they describe."""

import os
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.config_checks import MAX_DEPTH, count_parameters, read_json_object
from stellar_hub.training import StellarForPreTraining


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a valid JSON file"),
        (b'{"a": ', "is not a valid JSON file"),
        (b"\xff\xfe", "is not a valid JSON file"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not a valid JSON file"),
        (b"[1]", "must hold a JSON object, got list"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "more than 32 deep"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 32 deep"),
    ],
)
def test_read_json_object__refuses_in_one_line_with_the_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}") as caught:
        read_json_object(path)
    assert str(caught.value).isprintable()


def test_read_json_object__takes_a_byte_order_mark_and_the_largest_depth(tmp_path: Path) -> None:
    inner = MAX_DEPTH - 1
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": ' + b"[" * inner + b"]" * inner + b"}")
    assert list(read_json_object(tmp_path / "a.json")) == ["a"]


def test_read_json_object__is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    monkeypatch.setenv("STELLAR_HUB_MAX_CONFIG_BYTES", "7")
    with pytest.raises(ValueError, match=r"a\.json has 8 bytes.*STELLAR_HUB_MAX_CONFIG_BYTES"):
        read_json_object(tmp_path / "a.json")


def test_read_json_object__does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="pipe"):
        StellarConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("head", ["vq", "pixel"])
def test_count_parameters__is_close_to_the_model(head: str) -> None:
    config = StellarConfig(
        hidden_size=96, num_hidden_layers=3, num_attention_heads=3, image_size=64, patch_size=8, num_prototypes=256,
        decoder_hidden_size=64, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, reconstruction_head=head,
        prototype_dim=64, prototype_hidden_size=128, tokenizer_hidden_channels=32, tokenizer_channel_mult=[1, 2],
        codebook_size=128, tokenizer_embed_dim=32,
    )  # fmt: skip
    model = StellarForPreTraining(config)
    assert count_parameters(config) == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.5)
