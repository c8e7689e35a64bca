import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig, StellarEncoding, StellarModel, StellarModelOutput
from stellar_hub.modeling.factorization import low_rank_product


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


class TestBuild:
    @pytest.fixture
    def uninitialized_memory_is_nan(self) -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(False)

    @pytest.mark.parametrize("head", ["vq", "pixel"])
    def test_initialization__reaches_every_tensor(
        self, uninitialized_memory_is_nan: None, tiny_options: dict[str, Any], head: str
    ) -> None:
        model = StellarModel(StellarConfig(**tiny_options, reconstruction_head=head))
        assert [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []

    @pytest.mark.parametrize("width", [48, 768])
    def test_sparse_tokens__have_standard_deviation_of_one_over_root_d(
        self, tiny_options: dict[str, Any], width: int
    ) -> None:
        config = StellarConfig(**(tiny_options | {"hidden_size": width, "num_sparse_tokens": 64, "use_decoder": False}))
        tokens = StellarModel(config).encoder.sparse_tokens
        assert tokens.std().item() == pytest.approx(width**-0.5, rel=0.1)
        assert tokens.mean().abs().item() < 0.1 * width**-0.5

    def test_other_tensors__are_initialized_as_usual(self, tiny_options: dict[str, Any]) -> None:
        model = StellarModel(StellarConfig(**tiny_options, reconstruction_head="pixel"))
        for module in [*model.encoder.modules(), *model.localization.modules(), *model.decoder.modules()]:
            if isinstance(module, nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
                assert module.bias is None or module.bias.abs().max() == 0
            elif isinstance(module, nn.LayerNorm):
                assert (module.weight == 1).all()
                assert module.bias.abs().max() == 0
        assert model.decoder.position_code.frequencies.std().item() == pytest.approx(1, rel=0.4)
        assert model.encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)

    def test_parts__are_built_as_the_config_says(self, build_model: Callable[..., StellarModel]) -> None:
        assert build_model().tokenizer is not None
        for options in ({"reconstruction_head": "pixel"}, {"use_tokenizer": False}):
            model = build_model(**options)
            assert model.decoder is not None
            assert model.tokenizer is None
        model = build_model(use_decoder=False)
        assert model.decoder is None
        assert model.tokenizer is None

    def test_assigned_fields__are_checked_together(self, tiny_options: dict[str, Any]) -> None:
        config = StellarConfig(**tiny_options)
        config.hidden_size = 10
        with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads"):
            StellarModel(config)

    def test_misspelled_assignment__is_a_warning(
        self, tiny_options: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        config = StellarConfig(**tiny_options)
        config.hidden_sizee = 10
        config.my_note = "mine"
        StellarModel(config)
        assert [record.getMessage() for record in caplog.records if "my_note" in record.getMessage()] == []
        assert any("hidden_sizee" in m and "did you mean 'hidden_size'" in m for m in caplog.messages)

    def test_timms_names__say_the_sizes(self, pixel_model: StellarModel) -> None:
        assert pixel_model.num_features == 48
        assert pixel_model.patch_size == 8
        assert pixel_model.grid_size(32, 32) == (4, 4)
        assert pixel_model.grid_size(8, 256) == (1, 32)
        with pytest.raises(ValueError, match=r"width .* 24 or 32, got 30"):
            pixel_model.grid_size(32, 30)
        with pytest.raises(ValueError, match=r"height .* got 0"):
            pixel_model.grid_size(0, 32)

    def test_input_embeddings__are_none(self, pixel_model: StellarModel) -> None:
        assert pixel_model.get_input_embeddings() is None
        assert pixel_model.main_input_name == "pixel_values"


class TestForward:
    def test_output__has_the_shapes_promised(self, pixel_model: StellarModel, images: Tensor) -> None:
        out = pixel_model(images)
        assert isinstance(out, StellarModelOutput)
        assert {name: tuple(value.shape) for name, value in out.items()} == {
            "last_hidden_state": (2, 4, 48),
            "pooler_output": (2, 48),
            "localization": (2, 16, 4),
            "patch_features": (2, 16, 48),
            "cls_token": (2, 48),
        }

    def test_fields__are_s_first_and_its_mean_second(self, pixel_model: StellarModel, images: Tensor) -> None:
        out = pixel_model(images)
        semantics, localization = pixel_model.encode(images)
        assert_same(out[0], semantics)
        assert_same(out[1], semantics.mean(dim=1))
        assert_same(out[2], localization)
        assert out.reconstruction is None
        assert out.hidden_states is None

    def test_reconstruction__is_decode_of_encode(self, model: StellarModel) -> None:
        images = torch.rand(2, 3, 16, 40)
        out = model(images, output_reconstruction=True)
        expected = model.decode(*model.encode(images), grid_size=(2, 5))
        assert_same(out.reconstruction, expected)
        assert out.reconstruction.shape == images.shape

    def test_hidden_states__are_those_of_the_encoder(self, pixel_model: StellarModel, images: Tensor) -> None:
        # Even where the decoder, of as many blocks, runs in the same call.
        out = pixel_model(images, output_hidden_states=True, output_reconstruction=True)
        assert len(out.hidden_states) == 2 + 1
        tokens = pixel_model.encoder.embed(pixel_model._normalize(images))
        for hidden_state, block in zip(out.hidden_states, [*pixel_model.encoder.blocks, nn.Identity()], strict=True):
            assert hidden_state.shape == (2, 1 + 16 + 4, 48)
            assert_same(hidden_state, tokens)
            tokens = block(tokens)
        normed = pixel_model.encoder.norm(out.hidden_states[-1])
        assert_same(normed[:, -4:], out.last_hidden_state)

    def test_hidden_states__are_on_request_each_time(self, pixel_model: StellarModel, images: Tensor) -> None:
        assert pixel_model(images, output_hidden_states=True).hidden_states is not None
        assert pixel_model(images).hidden_states is None

    def test_hidden_states__can_be_asked_for_in_the_config(self, pixel_model: StellarModel, images: Tensor) -> None:
        pixel_model.config.output_hidden_states = True
        assert len(pixel_model(images).hidden_states) == 3

    @pytest.mark.parametrize("by_config", [False, True])
    def test_return_dict_false__gives_a_tuple(self, pixel_model: StellarModel, images: Tensor, by_config: bool) -> None:
        expected = pixel_model(images, output_hidden_states=True)
        pixel_model.config.return_dict = not by_config
        options = {} if by_config else {"return_dict": False}
        out = pixel_model(images, output_hidden_states=True, **options)
        assert type(out) is tuple
        assert len(out) == 6
        for value, name in zip(out, expected, strict=True):
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)

    def test_attentions__are_refused(self, pixel_model: StellarModel, images: Tensor) -> None:
        with pytest.raises(ValueError, match="output_attentions must be False"):
            pixel_model(images, output_attentions=True)

    def test_attentions__are_refused_in_a_configuration_too(self, pixel_model: StellarModel, images: Tensor) -> None:
        pixel_model.config._output_attentions = True
        with pytest.raises(ValueError, match="output_attentions must be False"):
            pixel_model(images)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("output_reconstructon", "did you mean 'output_reconstruction'"),
            ("outputs_hidden_states", "did you mean 'output_hidden_states'"),
            ("bool_masked_pos", "it takes output_reconstruction"),
        ],
    )
    def test_unknown_keyword__is_refused(self, pixel_model: StellarModel, images: Tensor, name: str, hint: str) -> None:
        with pytest.raises(TypeError, match=f"'{name}'; {hint}"):
            pixel_model(images, **{name: None})

    def test_keywords_of_frameworks__have_no_effect(self, pixel_model: StellarModel, images: Tensor) -> None:
        out = pixel_model(images, num_items_in_batch=None, output_attentions=False, return_dict=True)
        assert_same(out.last_hidden_state, pixel_model(images).last_hidden_state)


class TestEncode:
    def test_encoding__is_what_the_parts_give(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        _, patches, sparse = pixel_model.encoder(pixel_model._normalize(images))
        assert_same(encoding.semantics, sparse)
        assert_same(encoding.localization, pixel_model.localization(patches, sparse))

    @pytest.mark.parametrize("number", [1, 3])
    def test_num_tokens__localizes_the_first_tokens_alone(
        self, pixel_model: StellarModel, images: Tensor, number: int
    ) -> None:
        encoding = pixel_model.encode(images, num_tokens=number)
        _, patches, sparse = pixel_model.encoder(pixel_model._normalize(images))
        assert_same(encoding.semantics, sparse[:, :number])
        torch.testing.assert_close(encoding.localization, pixel_model.localization(patches, sparse[:, :number]))
        assert_same(encoding.localization, pixel_model.encode(images).select(num_tokens=number).localization)
        assert_same(pixel_model.reconstruct(images, num_tokens=number), pixel_model.decode(encoding))

    def test_num_tokens__warns_once_unless_the_model_was_trained_for_it(
        self, build_model: Callable[..., StellarModel], images: Tensor, caplog: pytest.LogCaptureFixture
    ) -> None:
        ordered = build_model(reconstruction_head="pixel", nested_dropout=0.5)
        plain = build_model(reconstruction_head="pixel")
        ordered.encode(images, num_tokens=2)
        plain.encode(images, num_tokens=4)  # all of them
        assert "nested_dropout" not in caplog.text
        plain.encode(images, num_tokens=2)
        plain.encode(images, num_tokens=1)
        assert caplog.text.count("not trained with nested_dropout") == 1

    def test_num_tokens__out_of_range_is_refused(self, pixel_model: StellarModel, images: Tensor) -> None:
        for entry in (pixel_model.encode, pixel_model.reconstruct):
            with pytest.raises(ValueError, match="num_tokens must be from 1 to 4"):
                entry(images, num_tokens=5)

    def test_uint8__equals_floats_of_255ths(self, pixel_model: StellarModel) -> None:
        levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        expected = pixel_model.encode(levels.float() / 255)
        actual = pixel_model.encode(levels)
        assert_same(actual.semantics, expected.semantics)
        assert_same(actual.localization, expected.localization)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype_of_the_input__does_not_decide_that_of_the_result(
        self, pixel_model: StellarModel, images: Tensor, dtype: torch.dtype
    ) -> None:
        semantics, localization = pixel_model.encode(images.to(dtype))
        assert semantics.dtype == localization.dtype == torch.float32
        expected = pixel_model.encode(images.to(dtype).float()).semantics
        torch.testing.assert_close(semantics, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (torch.full((1, 3, 32, 32), 255.0), "0-255 range"),
            (torch.full((1, 3, 32, 32), float("nan")), "got NaN"),
            (torch.zeros(3, 32, 32), "unsqueeze"),
            (torch.zeros(1, 3, 30, 32), "height .* got 30"),
        ],
        ids=["0-255", "nan", "rank", "height"],
    )
    def test_bad_input__is_refused_by_every_entry(self, model: StellarModel, bad: Tensor, message: str) -> None:
        for entry in (model.encode, model, model.forward_intermediates):
            with pytest.raises(ValueError, match=message):
                entry(bad)

    def test_no_tensor__is_refused_by_every_entry(self, pixel_model: StellarModel) -> None:
        for entry in (pixel_model.encode, pixel_model, pixel_model.forward_intermediates):
            with pytest.raises(TypeError, match="got str"):
                entry("cat.jpg")  # type: ignore[operator]


class TestDecode:
    def test_images__are_in_range_and_of_the_size_encoded(self, model: StellarModel, images: Tensor) -> None:
        decoded = model.decode(*model.encode(images))
        assert decoded.shape == images.shape
        assert decoded.min() >= 0
        assert decoded.max() <= 1
        assert decoded.std() > 0.01

    def test_pixel__is_the_clamped_prediction(self, pixel_model: StellarModel, images: Tensor) -> None:
        semantics, localization = pixel_model.encode(images)
        hidden_states = pixel_model.decoder(low_rank_product(localization, semantics), (4, 4))
        prediction = pixel_model.decoder.predict(hidden_states, (4, 4))
        assert prediction.min() < 0 < 1 < prediction.max()
        assert_same(pixel_model.decode(semantics, localization), prediction.clamp(0, 1))

    def test_vq__is_the_tokenizers_image_of_the_likeliest_codes(self, vq_model: StellarModel, images: Tensor) -> None:
        semantics, localization = vq_model.encode(images)
        hidden_states = vq_model.decoder(low_rank_product(localization, semantics), (4, 4))
        codes = vq_model.decoder.head(hidden_states).argmax(dim=-1)
        assert codes.unique().numel() > 3
        assert_same(vq_model.decode(semantics, localization), vq_model.tokenizer(codes.view(2, 4, 4)))

    def test_vq__gives_the_tokenizers_pixels_per_cell_not_the_patchs(
        self, build_model: Callable[..., StellarModel]
    ) -> None:
        model = build_model(patch_size=4)  # as stellar-h16: patch 14, 16 pixels per cell
        assert model.decode(*model.encode(torch.rand(1, 3, 32, 32))).shape == (1, 3, 64, 64)

    def test_grid_size__decides_the_shape(self, model: StellarModel) -> None:
        semantics, localization = model.encode(torch.rand(1, 3, 24, 32))
        upright = model.decode(semantics, localization, grid_size=(4, 3))
        lying = model.decode(semantics, localization, grid_size=(3, 4))
        assert upright.shape == (1, 3, 32, 24)
        assert lying.shape == (1, 3, 24, 32)

    def test_encoding__is_enough_for_an_image_that_is_not_square(self, model: StellarModel) -> None:
        images = torch.rand(2, 3, 24, 32)
        encoding = model.encode(images)
        semantics, localization = encoding
        assert encoding.grid_size == (3, 4)
        expected = model.decode(semantics, localization, grid_size=(3, 4))
        assert_same(model.decode(encoding), expected)
        assert_same(model.decode(encoding, grid_size=(3, 4)), expected)
        assert_same(model.decode((semantics, localization), grid_size=(3, 4)), expected)
        assert_same(model.reconstruct(images), expected)
        with pytest.raises(ValueError, match=r"12 patches .*grid_size=\(h, w\)"):
            model.decode(semantics, localization)

    @pytest.mark.parametrize(
        ("options", "decodes"),
        [({}, True), ({"use_tokenizer": False}, False), ({"use_decoder": False}, False)],
        ids=["vq", "without tokenizer", "without decoder"],
    )
    def test_can_decode__says_whether_decode_works(
        self, build_model: Callable[..., StellarModel], images: Tensor, options: dict[str, Any], decodes: bool
    ) -> None:
        model = build_model(**options)
        assert model.can_decode is decodes
        if decodes:
            assert_same(model.reconstruct(images), model.decode(model.encode(images)))
        else:
            with pytest.raises(ValueError, match="this model has no "):
                model.reconstruct(images)

    def test_fewer_tokens__decode(self, model: StellarModel, images: Tensor) -> None:
        semantics, localization = model.encode(images)
        decoded = model.decode(semantics[:, :2], localization[..., :2])
        assert decoded.shape == images.shape
        assert (decoded - model.decode(semantics, localization)).abs().max() > 0.01

    def test_more_tokens__decode_as_their_sum(self, model: StellarModel, images: Tensor) -> None:
        semantics, localization = model.encode(images)
        twice = model.decode(semantics.repeat(1, 2, 1), localization.repeat(1, 1, 2) / 2)
        torch.testing.assert_close(twice, model.decode(semantics, localization), rtol=0, atol=1e-5)

    def test_order_of_tokens__does_not_matter(self, pixel_model: StellarModel, images: Tensor) -> None:
        semantics, localization = pixel_model.encode(images)
        order = torch.tensor([3, 1, 0, 2])
        turned = pixel_model.decode(semantics[:, order], localization[..., order])
        torch.testing.assert_close(turned, pixel_model.decode(semantics, localization), rtol=0, atol=1e-5)

    def test_other_dtype_of_the_encoding__is_cast(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images).to(torch.bfloat16)
        decoded = pixel_model.decode(*encoding)
        assert decoded.dtype == torch.float32
        assert_same(decoded, pixel_model.decode(*encoding.to(torch.float32)))


class TestDecodeBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda sem, loc: (sem[..., :32], loc), "width 48"),
            (lambda sem, loc: (sem, loc.transpose(1, 2)), "transposed"),
            (lambda sem, loc: (sem[:0], loc[:0]), "at least one image"),
            (lambda sem, loc: (sem, loc[:, :12]), r"12 patches .*grid_size="),
        ],
    )
    def test_s_and_l_that_do_not_fit__are_refused(
        self, model: StellarModel, images: Tensor, change: Callable[..., tuple[Tensor, Tensor]], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            model.decode(*change(*model.encode(images)))

    @pytest.mark.parametrize("change", [lambda sem, loc: (sem.long(), loc), lambda sem, loc: (sem, loc.bool())])
    def test_other_types__are_refused(
        self, model: StellarModel, images: Tensor, change: Callable[..., tuple[Tensor, Tensor]]
    ) -> None:
        with pytest.raises(TypeError, match="got torch"):
            model.decode(*change(*model.encode(images)))

    def test_values_that_are_not_finite__are_refused(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        with pytest.raises(ValueError, match="S must be finite"):
            pixel_model.decode(encoding.semantics * torch.nan, encoding.localization)

    def test_grid_of_another_shape__is_refused(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        with pytest.raises(ValueError, match=r"\(2, 8\) .*\(4, 4\)"):
            pixel_model.decode(encoding, grid_size=(2, 8))
        with pytest.raises(ValueError, match=r"16 patches .*got \(2, 2\)"):
            pixel_model.decode(StellarEncoding(*encoding, grid_size=(2, 2)))

    def test_missing_or_superfluous_l__is_refused(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        with pytest.raises(TypeError, match="needs L"):
            pixel_model.decode(encoding.semantics)
        with pytest.raises(TypeError, match="a tuple of 2 and L"):
            pixel_model.decode(encoding, encoding.localization)
        with pytest.raises(TypeError, match="a tuple of 1"):
            pixel_model.decode((encoding.semantics,))  # type: ignore[arg-type]

    @pytest.mark.parametrize("grid", [(4, 5), (0, 16)])
    def test_wrong_grid_size__is_named(self, model: StellarModel, images: Tensor, grid: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=rf"16 patches .*got \({grid[0]}, {grid[1]}\)"):
            model.decode(*model.encode(images), grid_size=grid)

    def test_no_decoder__says_how_to_load_one(self, build_model: Callable[..., StellarModel], images: Tensor) -> None:
        model = build_model(use_decoder=False)
        encoding = model.encode(images)
        with pytest.raises(ValueError, match=r"no decoder: .*decoder=False"):
            model.decode(*encoding)
        with pytest.raises(ValueError, match="no decoder"):
            model(images, output_reconstruction=True)

    def test_no_tokenizer__says_how_to_get_one(self, build_model: Callable[..., StellarModel], images: Tensor) -> None:
        model = build_model(use_tokenizer=False)
        encoding = model.encode(images)
        with pytest.raises(ValueError, match=r"no tokenizer.*vqgan="):
            model.decode(*encoding)


class TestGradients:
    def test_encode__is_differentiable_in_pixels_and_weights(self, pixel_model: StellarModel, images: Tensor) -> None:
        images.requires_grad_()
        semantics, localization = pixel_model.encode(images)
        (semantics.square().sum() + localization.square().sum()).backward()
        assert images.grad.abs().sum() > 0
        for part in (pixel_model.encoder, pixel_model.localization):
            assert [n for n, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_encode__gradient_is_that_of_finite_differences(self, pixel_model: StellarModel) -> None:
        pixel_model.double()
        image = (0.2 + 0.6 * torch.rand(1, 3, 8, 8, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: tuple(pixel_model.encode(x)), (image,), fast_mode=True, eps=1e-4)

    def test_decode_of_pixel__is_differentiable(self, pixel_model: StellarModel, images: Tensor) -> None:
        semantics, localization = (part.detach().requires_grad_() for part in pixel_model.encode(images))
        pixel_model.decode(semantics, localization).square().mean().backward()
        assert semantics.grad.abs().sum() > 0
        assert localization.grad.abs().sum() > 0
        decoder = pixel_model.decoder.named_parameters()
        assert [n for n, p in decoder if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_decode_of_vq__has_no_gradient(self, vq_model: StellarModel, images: Tensor) -> None:
        semantics, localization = (part.detach().requires_grad_() for part in vq_model.encode(images))
        assert not vq_model.decode(semantics, localization).requires_grad


class TestCheckpointing:
    @staticmethod
    def run(model: StellarModel, images: Tensor) -> tuple[Tensor, dict[str, Tensor], int]:
        """Reconstruction, gradients by name, and how often blocks ran."""
        count = 0

        def tally(*args: object) -> None:
            nonlocal count
            count += 1

        handles = [
            block.register_forward_pre_hook(tally) for part in (model.encoder, model.decoder) for block in part.blocks
        ]
        out = model(images, output_reconstruction=True)
        (out.reconstruction.square().mean() + out.cls_token.square().mean()).backward()
        for handle in handles:
            handle.remove()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return out.reconstruction.detach(), gradients, count

    @pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
    def test_checkpointing__changes_neither_outputs_nor_gradients(
        self, pixel_model: StellarModel, images: Tensor
    ) -> None:
        pixel_model.train()
        plain = self.run(pixel_model, images)
        pixel_model.gradient_checkpointing_enable()
        assert pixel_model.is_gradient_checkpointing
        saving = self.run(pixel_model, images)
        pixel_model.gradient_checkpointing_disable()
        assert not pixel_model.is_gradient_checkpointing
        again = self.run(pixel_model, images)

        assert (plain[2], saving[2], again[2]) == (4, 8, 4)  # with checkpointing every block runs twice
        assert_same(saving[0], plain[0])
        assert saving[1].keys() == plain[1].keys()
        for name, gradient in plain[1].items():
            torch.testing.assert_close(saving[1][name], gradient, rtol=1e-5, atol=1e-8)

    @pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
    @pytest.mark.parametrize("case", ["eval", "no_grad"])
    def test_checkpointing__is_for_training_alone(self, pixel_model: StellarModel, images: Tensor, case: str) -> None:
        pixel_model.gradient_checkpointing_enable()
        pixel_model.train(case == "no_grad")
        if case == "eval":
            assert self.run(pixel_model, images)[2] == 4
        else:
            with torch.no_grad():
                assert pixel_model(images).last_hidden_state.isfinite().all()


class TestState:
    @pytest.mark.parametrize("training", [False, True])
    def test_no_call__changes_the_model_or_its_arguments(
        self, model: StellarModel, images: Tensor, training: bool
    ) -> None:
        model.train(training)
        config = model.config.to_dict()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        random = torch.get_rng_state()
        pixels, encoding = images.clone(), model.encode(images)
        kept = StellarEncoding(*(part.detach().clone() for part in encoding))

        model.decode(*encoding)
        model(images, output_hidden_states=True, output_reconstruction=True)
        model.forward_intermediates(images, norm=True)

        assert_same(images, pixels)
        assert_same(encoding.semantics.detach(), kept.semantics)
        assert_same(encoding.localization.detach(), kept.localization)
        assert model.state_dict().keys() == state.keys()
        for name, tensor in model.state_dict().items():
            assert_same(tensor, state[name])
        assert {name: p.requires_grad for name, p in model.named_parameters()} == requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.training is training
        assert model.config.to_dict() == config
        assert_same(torch.get_rng_state(), random)

    def test_training_mode__computes_the_same(self, model: StellarModel, images: Tensor) -> None:
        expected = model(images, output_reconstruction=True)
        actual = model.train()(images, output_reconstruction=True)
        for name, value in expected.items():
            assert_same(actual[name], value)

    def test_other_sizes_in_between__leave_no_trace(self, model: StellarModel, images: Tensor) -> None:
        expected = model(images, output_reconstruction=True)
        model(torch.rand(1, 3, 64, 16), output_reconstruction=True)
        actual = model(images, output_reconstruction=True)
        for name, value in expected.items():
            assert_same(actual[name], value)


class TestDtype:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_everything__is_in_the_models_dtype(self, model: StellarModel, images: Tensor, dtype: torch.dtype) -> None:
        out = model.to(dtype)(images, output_reconstruction=True, output_hidden_states=True)
        assert {value.dtype for name, value in out.items() if name != "hidden_states"} == {dtype}
        assert {hidden_state.dtype for hidden_state in out.hidden_states} == {dtype}
        # 4 weights, each rounded to the dtype's 8 bits: 4 * 2 ** -9.
        sums = out.localization.double().sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=4 * 2**-9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast__runs_and_keeps_rows_of_l_exact(
        self, model: StellarModel, images: Tensor, dtype: torch.dtype
    ) -> None:
        expected = model.encode(images)
        with torch.autocast("cpu", dtype=dtype):
            semantics, localization = model.encode(images)
            decoded = model.decode(semantics, localization)
        sums = localization.float().sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=4 * 2**-9)
        cosine = F.cosine_similarity(semantics.float(), expected.semantics, dim=-1)
        assert cosine.min() > 0.999
        assert decoded.isfinite().all()
        assert decoded.shape == images.shape

    def test_autocast__is_differentiable(self, pixel_model: StellarModel, images: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = pixel_model.decode(*pixel_model.encode(images)).float().square().mean()
        loss.backward()
        grads = [p.grad for p in pixel_model.parameters()]
        assert sum(grad is not None for grad in grads) > 50
        assert all(grad.isfinite().all() for grad in grads if grad is not None)


class TestForwardIntermediates:
    def test_all__are_maps_of_each_block(self, pixel_model: StellarModel) -> None:
        final, maps = pixel_model.forward_intermediates(torch.rand(2, 3, 16, 40))
        assert final.shape == (2, 1 + 10 + 4, 48)
        assert [tuple(item.shape) for item in maps] == [(2, 48, 2, 5)] * 2

    def test_last_with_norm__is_patch_features(self, pixel_model: StellarModel, images: Tensor) -> None:
        out = pixel_model(images)
        (last,) = pixel_model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        assert_same(last.flatten(2).transpose(1, 2), out.patch_features)

    def test_values__are_those_of_hidden_states(self, pixel_model: StellarModel, images: Tensor) -> None:
        hidden_states = pixel_model(images, output_hidden_states=True).hidden_states
        sequences = pixel_model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
        for sequence, hidden_state in zip(sequences, hidden_states[1:], strict=True):
            assert_same(sequence, hidden_state[:, 1:17])

    def test_final_sequence__is_that_of_the_encoder(self, pixel_model: StellarModel, images: Tensor) -> None:
        out = pixel_model(images)
        final, _ = pixel_model.forward_intermediates(images, indices=[0])
        assert_same(final[:, 0], out.cls_token)
        assert_same(final[:, 1:17], out.patch_features)
        assert_same(final[:, 17:], out.last_hidden_state)

    def test_prefix__is_cls(self, pixel_model: StellarModel, images: Tensor) -> None:
        ((features, prefix),) = pixel_model.forward_intermediates(
            images, indices=[-1], return_prefix_tokens=True, norm=True, intermediates_only=True
        )
        assert features.shape == (2, 48, 4, 4)
        assert_same(prefix[:, 0], pixel_model(images).cls_token)

    def test_stop_early__gives_the_same_map(self, pixel_model: StellarModel, images: Tensor) -> None:
        options: dict[str, Any] = {"indices": [0], "intermediates_only": True}
        (full,) = pixel_model.forward_intermediates(images, **options)
        ran: list[int] = []
        pixel_model.encoder.blocks[1].register_forward_hook(lambda *args: ran.append(1))
        (early,) = pixel_model.forward_intermediates(images, stop_early=True, **options)
        assert ran == []
        assert_same(early, full)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stop_early": True}, "stop_early=True needs intermediates_only=True"),
            ({"output_fmt": "NHWC"}, "output_fmt must be 'NCHW' or 'NLC', got 'NHWC'"),
            ({"indices": 3}, "indices=3 .* 2"),
            ({"indices": [2]}, "block 2, .* 0 to 1"),
        ],
    )
    def test_bad_options__are_named(
        self, pixel_model: StellarModel, images: Tensor, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            pixel_model.forward_intermediates(images, **options)

    @pytest.mark.parametrize("indices", ["last", [0.5], [True], True, 1.0])
    def test_indices_of_another_type__are_refused(
        self, pixel_model: StellarModel, images: Tensor, indices: Any
    ) -> None:
        with pytest.raises(TypeError, match="indices must be "):
            pixel_model.forward_intermediates(images, indices)

    def test_forward_features__is_the_final_sequence(self, pixel_model: StellarModel, images: Tensor) -> None:
        assert_same(pixel_model.forward_features(images), pixel_model.forward_intermediates(images)[0])


class Encode(nn.Module):
    """A model's `encode` as a module."""

    def __init__(self, model: StellarModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> StellarEncoding:
        return self.model.encode(pixel_values)


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh_dynamo(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_encode_and_decode__stay_one_graph_when_the_size_changes(self, model: StellarModel) -> None:
        encode = torch.compile(model.encode, backend="eager", fullgraph=True)
        decode = torch.compile(model.decode, backend="eager", fullgraph=True)
        with torch.no_grad():
            for height, width in ((32, 32), (48, 48), (32, 64)):
                images = torch.rand(2, 3, height, width)
                expected, actual = model.encode(images), encode(images)
                assert type(actual) is StellarEncoding
                assert actual.grid_size == (height // 8, width // 8)
                assert_same(actual.semantics, expected.semantics)
                assert_same(actual.localization, expected.localization)
                assert_same(decode(actual), model.decode(expected))
            assert_same(decode(*model.encode(images), grid_size=(4, 8)), model.decode(expected))

    def test_wrong_shape__is_still_refused(self, pixel_model: StellarModel) -> None:
        encode = torch.compile(pixel_model.encode, backend="eager")
        with pytest.raises(ValueError, match=r"height .* got 30"):
            encode(torch.zeros(1, 3, 30, 32))

    def test_export__keeps_the_encoding_and_its_grid(self, pixel_model: StellarModel) -> None:
        images = torch.rand(2, 3, 24, 32)
        buffer = io.BytesIO()
        with torch.no_grad():
            torch.export.save(torch.export.export(Encode(pixel_model), (images,)), buffer)
            buffer.seek(0)
            actual = torch.export.load(buffer).module()(images)
            expected = pixel_model.encode(images)
        assert type(actual) is StellarEncoding
        assert actual.grid_size == (3, 4)
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("strict", [False, True])
    def test_export_for_any_size__has_no_grid(self, pixel_model: StellarModel, strict: bool) -> None:
        height, width = (torch.export.Dim(name, min=2, max=16) for name in "hw")
        sizes = ({2: 8 * height, 3: 8 * width},)
        with torch.no_grad():
            program = torch.export.export(
                Encode(pixel_model), (torch.rand(2, 3, 24, 32),), dynamic_shapes=sizes, strict=strict
            )
            images = torch.rand(2, 3, 40, 16)
            encoding = program.module()(images)
            assert encoding.grid_size is None
            torch.testing.assert_close(encoding.semantics, pixel_model.encode(images).semantics, rtol=0, atol=1e-5)


class TestHooks:
    """Hooks such as those that fetch offloaded weights run around `forward` alone."""

    @pytest.mark.parametrize("part", ["encoder", "decoder"])
    def test_every_method__calls_the_part_as_a_module(
        self, pixel_model: StellarModel, images: Tensor, part: str
    ) -> None:
        calls: list[str] = []
        getattr(pixel_model, part).register_forward_hook(lambda *_: calls.append(part))
        methods: dict[str, list[Callable[[], object]]] = {
            "encoder": [
                lambda: pixel_model.encode(images),
                lambda: pixel_model(images),
                lambda: pixel_model.forward_intermediates(images),
                lambda: pixel_model.forward_intermediates(images, indices=1, intermediates_only=True, stop_early=True),
            ],
            "decoder": [lambda: pixel_model.reconstruct(images)],
        }
        for number, method in enumerate(methods[part], start=1):
            method()
            assert len(calls) == number

    def test_offloaded_weights__give_the_same(self, pixel_folder: Path, images: Tensor, tmp_path: Path) -> None:
        whole = StellarModel.from_pretrained(pixel_folder)
        places = {"encoder": "disk", "localization": "disk", "decoder": "disk"}
        model = StellarModel.from_pretrained(pixel_folder, device_map=places, offload_folder=tmp_path)
        with torch.inference_mode():
            torch.testing.assert_close(model.reconstruct(images), whole.reconstruct(images), rtol=0, atol=0)
            for options in ({}, {"norm": True}, {"indices": 1, "intermediates_only": True, "stop_early": True}):
                actual, expected = (m.forward_intermediates(images, **options) for m in (model, whole))
                torch.testing.assert_close(actual, expected, rtol=0, atol=0)

    def test_offloaded_weights__compute_where_the_model_says(self, pixel_folder: Path, tmp_path: Path) -> None:
        places = {"encoder": "disk", "localization": "cpu", "decoder": "disk"}
        model = StellarModel.from_pretrained(pixel_folder, device_map=places, offload_folder=tmp_path / "offloaded")
        assert model.device == torch.device("cpu")
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        (batch,) = model.extract(str(tmp_path), ["S"], num_workers=0)
        assert batch["S"].isfinite().all()
