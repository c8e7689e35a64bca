"""Properties that hold for all inputs, across modules."""

import copy
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.modeling import StellarEncoding, StellarModel
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.decoder_stellar import fourier_position_code
from stellar_hub.modeling.encoder_stellar import mlp_ratio, take_indices
from stellar_hub.modeling.factorization import localize
from stellar_hub.modeling.image_geometry import MAX_ASPECT, Fit, ImageGeometry, fit_geometry
from stellar_hub.modeling.input_checks import nearest_multiples, resolve_grid_size
from stellar_hub.modeling.localization_maps import resample_maps
from stellar_hub.modeling.maskgit_vqgan import nearest_codes

PATCH = 8

seeds = st.integers(0, 2**31 - 1)
small_grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
image_sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


@pytest.fixture(scope="module", params=["pixel", "vq"])
def shared_model(request: pytest.FixtureRequest) -> StellarModel:
    """The tiny model with either head; not to be changed."""
    return request.getfixturevalue(f"shared_{request.param}_model")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_images(seed: int, batch: int, grid: tuple[int, int]) -> Tensor:
    """Noise and smooth images in turn, `(batch, 3, 8 h, 8 w)`."""
    height, width = PATCH * grid[0], PATCH * grid[1]
    noise = torch.rand(batch, 3, height, width, generator=generator(seed))
    smooth = F.interpolate(torch.rand(batch, 3, 3, 3, generator=generator(seed + 1)), (height, width), mode="bilinear")
    pick = (torch.arange(batch) % 2 == seed % 2).view(-1, 1, 1, 1)
    return torch.where(pick, noise, smooth)


class TestLocalization:
    @given(seed=seeds, batch=st.integers(1, 3), grid=small_grids)
    def test_rows_of_l__sum_to_one(
        self, shared_model: StellarModel, seed: int, batch: int, grid: tuple[int, int]
    ) -> None:
        with torch.no_grad():
            localization = shared_model.encode(draw_images(seed, batch, grid)).localization
        assert localization.shape == (batch, grid[0] * grid[1], 4)
        assert localization.min() >= 0
        torch.testing.assert_close(localization.sum(dim=-1), torch.ones(localization.shape[:2]), rtol=0, atol=1e-6)

    @given(
        seed=seeds,
        temperature=st.floats(1e-3, 100),
        scale=st.sampled_from([0.0, 1e-20, 1e-6, 1.0, 1e6, 1e15]),
        tokens=st.integers(1, 24),
        dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    )
    def test_rows__sum_to_one_whatever_the_features(
        self, seed: int, temperature: float, scale: float, tokens: int, dtype: torch.dtype
    ) -> None:
        query = (torch.randn(2, 5, 8, generator=generator(seed)).double() * scale).clamp(-6e4, 6e4).to(dtype)
        key = (torch.randn(2, tokens, 8, generator=generator(seed + 1)).double() * scale).clamp(-6e4, 6e4).to(dtype)
        result = localize(query, key, temperature)
        assert result.min() >= 0
        torch.testing.assert_close(result.sum(dim=-1), torch.ones(2, 5, dtype=result.dtype), rtol=0, atol=1e-6)


class TestBatch:
    @given(seed=seeds, batch=st.integers(2, 4), grid=small_grids)
    def test_batch__equals_its_single_images(
        self, shared_model: StellarModel, seed: int, batch: int, grid: tuple[int, int]
    ) -> None:
        images = draw_images(seed, batch, grid)
        with torch.no_grad():
            together = shared_model.encode(images)
            decoded = shared_model.decode(*together, grid_size=grid)
            for index in range(batch):
                alone = shared_model.encode(images[index : index + 1])
                # Matrix products of another size may sum in another order. Measured over 160 batches: 1.3e-6 in S (of
                # standard deviation 1), 5.4e-7 in L, 1.0e-5 in the image of the same encoding.
                part = together.select(index)
                torch.testing.assert_close(alone.semantics, part.semantics, rtol=0, atol=1e-5)
                torch.testing.assert_close(alone.localization, part.localization, rtol=0, atol=5e-6)
                # The same encoding, as codes are an argmax: a near tie may fall either way after rounding.
                image = shared_model.decode(*part, grid_size=grid)
                torch.testing.assert_close(image, decoded[index : index + 1], rtol=0, atol=1e-4)

    @given(seed=seeds, order=st.permutations(range(4)))
    def test_order_of_images__is_kept(self, shared_pixel_model: StellarModel, seed: int, order: list[int]) -> None:
        images = draw_images(seed, 4, (2, 3))
        with torch.no_grad():
            expected = shared_pixel_model.encode(images).select(torch.tensor(order))
            actual = shared_pixel_model.encode(images[order])
        torch.testing.assert_close(actual.semantics, expected.semantics, rtol=0, atol=1e-5)


class TestGrids:
    @settings(max_examples=15)
    @given(grid=st.tuples(st.integers(1, 32), st.integers(1, 32)))
    @example(grid=(1, 1))
    @example(grid=(1, 32))
    @example(grid=(32, 1))
    @example(grid=(32, 32))
    @example(grid=(31, 7))
    def test_any_grid__encodes_and_decodes(self, shared_model: StellarModel, grid: tuple[int, int]) -> None:
        images = draw_images(grid[0] * 100 + grid[1], 1, grid)
        assert shared_model.grid_size(*images.shape[-2:]) == grid
        with torch.no_grad():
            semantics, localization = shared_model.encode(images)
            decoded = shared_model.decode(semantics, localization, grid_size=grid)
        assert semantics.shape == (1, 4, 48)
        assert localization.shape == (1, grid[0] * grid[1], 4)
        assert decoded.shape == images.shape
        assert semantics.isfinite().all()
        assert decoded.min() >= 0
        assert decoded.max() <= 1

    @given(side=st.integers(1, 32))
    def test_square_grid__needs_no_grid_size(self, side: int) -> None:
        assert resolve_grid_size(side * side, None) == (side, side)

    @given(height=st.integers(1, 32), width=st.integers(1, 32))
    def test_given_grid__is_taken_if_and_only_if_it_fits(self, height: int, width: int) -> None:
        assert resolve_grid_size(height * width, (height, width)) == (height, width)
        with pytest.raises(ValueError, match="grid_size must"):
            resolve_grid_size(height * width + 1, (height, width))

    @given(value=st.integers(0, 10_000), step=st.integers(1, 64))
    def test_nearest_multiples__enclose_the_value(self, value: int, step: int) -> None:
        multiples = nearest_multiples(value, step)
        assert all(multiple > 0 and multiple % step == 0 for multiple in multiples)
        assert all(abs(multiple - value) <= step for multiple in multiples)
        assert max(multiples) > value


class TestSaveLoad:
    @settings(max_examples=6)
    @given(seed=seeds, grid=small_grids, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    def test_model__is_bit_equal_after_save_and_load(
        self, shared_model: StellarModel, seed: int, grid: tuple[int, int], dtype: torch.dtype
    ) -> None:
        model = copy.deepcopy(shared_model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator(seed)))
        model.to(dtype)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = StellarModel.from_pretrained(folder)
        images = draw_images(seed, 2, grid)
        with torch.no_grad():
            expected, actual = model.encode(images), loaded.encode(images)
            torch.testing.assert_close(actual.semantics, expected.semantics, rtol=0, atol=0)
            torch.testing.assert_close(actual.localization, expected.localization, rtol=0, atol=0)
            image = model.decode(*expected, grid_size=grid)
            torch.testing.assert_close(loaded.decode(*actual, grid_size=grid), image, rtol=0, atol=0)

    @given(
        seed=seeds,
        shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 30)),
        dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    )
    def test_encoding__is_bit_equal_after_save_and_load(
        self, seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype
    ) -> None:
        batch, tokens, patches, width = shape
        semantics = torch.randn(batch, tokens, width, generator=generator(seed)).to(dtype)
        localization = torch.rand(batch, patches, tokens, generator=generator(seed + 1)).to(dtype)
        with tempfile.TemporaryDirectory() as folder:
            StellarEncoding(semantics, localization).save(Path(folder) / "code.safetensors")
            loaded = StellarEncoding.load(Path(folder) / "code.safetensors")
        torch.testing.assert_close(loaded.semantics, semantics, rtol=0, atol=0)
        torch.testing.assert_close(loaded.localization, localization, rtol=0, atol=0)

    @given(old=st.binary(max_size=300), new=st.binary(max_size=300))
    def test_write_atomically__holds_the_last_bytes(self, old: bytes, new: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            write_atomically(path, old)
            write_atomically(path, new)
            assert path.read_bytes() == new
            assert list(Path(folder).iterdir()) == [path]


class Bounds(NamedTuple):
    """How far a dtype may drift from float32."""

    dtype: torch.dtype
    cosine: float  # 1 - cosine of a token of S
    weight: float  # change of an entry of L
    largest: float  # change of a value of the "pixel" image
    mean: float  # its mean change
    tokenizer: float  # mean change of the tokenizer's image of the same codes


# Measured with the tiny models over 200 batches of 4 images, the worst case of each, bfloat16 and float16:
# cosine 3.6e-5, 6.2e-7; weight 0.027, 0.0035; largest 0.011, 0.0015; mean 0.0014, 0.00018; tokenizer 0.0054, 0.00062;
# share of patches whose strongest token is the same 0.969, 0.984; share of the same codes 0.953, 0.969.
# The bounds are about three times that.
DRIFT = [
    Bounds(torch.bfloat16, cosine=1.2e-4, weight=0.08, largest=0.035, mean=0.004, tokenizer=0.016),
    Bounds(torch.float16, cosine=2.5e-6, weight=0.011, largest=0.005, mean=0.0006, tokenizer=0.002),
]


@pytest.mark.parametrize("bounds", DRIFT, ids=["bfloat16", "float16"])
class TestDtypeDrift:
    @given(seed=seeds)
    def test_encode__drifts_within_bounds(self, shared_model: StellarModel, bounds: Bounds, seed: int) -> None:
        images = draw_images(seed, 4, (4, 4))
        with torch.no_grad():
            semantics, localization = shared_model.encode(images).to(torch.float64)
            half = in_dtype(shared_model, bounds.dtype).encode(images).to(torch.float64)
        assert (1 - F.cosine_similarity(half.semantics, semantics, dim=-1)).max() < bounds.cosine
        assert (half.localization - localization).abs().max() < bounds.weight
        sums = half.localization.sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=4 * 2**-9)  # four weights of 8 bits
        agree = half.localization.argmax(dim=-1) == localization.argmax(dim=-1)
        assert agree.float().mean() > 0.9
        # Where the strongest token leads by more than two weights may move, it is the same always.
        best = localization.topk(2, dim=-1).values
        clear = best[..., 0] - best[..., 1] > 2 * bounds.weight
        assert clear.float().mean() > 0.5
        assert agree[clear].all()

    @given(seed=seeds)
    def test_image_of_pixel_head__drifts_within_bounds(
        self, shared_pixel_model: StellarModel, bounds: Bounds, seed: int
    ) -> None:
        images = draw_images(seed, 4, (4, 4))
        half = in_dtype(shared_pixel_model, bounds.dtype)
        with torch.no_grad():
            expected = shared_pixel_model.decode(*shared_pixel_model.encode(images))
            difference = (half.decode(*half.encode(images)).float() - expected).abs()
        assert difference.max() < bounds.largest
        assert difference.mean() < bounds.mean

    @given(seed=seeds)
    def test_vq_head__drifts_within_bounds(self, shared_vq_model: StellarModel, bounds: Bounds, seed: int) -> None:
        # Codes are an argmax: a near tie that falls the other way changes its cell altogether. So most codes agree,
        # and the image of the same codes is close.
        images = draw_images(seed, 4, (4, 4))
        half = in_dtype(shared_vq_model, bounds.dtype)
        with torch.no_grad():
            codes, other = (likeliest_codes(model, images) for model in (shared_vq_model, half))
            difference = (half.tokenizer(codes).float() - shared_vq_model.tokenizer(codes)).abs()
        assert (codes == other).float().mean() > 0.85
        assert difference.mean() < bounds.tokenizer


_IN_DTYPE: dict[tuple[int, torch.dtype], StellarModel] = {}


def in_dtype(model: StellarModel, dtype: torch.dtype) -> StellarModel:
    """The model in another dtype, made once."""
    key = (id(model), dtype)
    if key not in _IN_DTYPE:
        _IN_DTYPE[key] = copy.deepcopy(model).to(dtype)
    return _IN_DTYPE[key]


def likeliest_codes(model: StellarModel, images: Tensor) -> Tensor:
    """What `decode` of the "vq" head hands to the tokenizer, `(B, 4, 4)`."""
    seen: list[Tensor] = []
    handle = model.tokenizer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model.decode(*model.encode(images))
    handle.remove()
    return seen[0]


class TestGeometry:
    @staticmethod
    def plan(size: tuple[int, int], fit: Fit) -> ImageGeometry:
        return fit_geometry(size, fit, shortest_edge=37, output_size=(32, 32), patch_size=PATCH)

    @given(size=image_sizes, fit=st.sampled_from(["crop", "aspect", "pad"]))
    def test_output__is_in_whole_patches(self, size: tuple[int, int], fit: Fit) -> None:
        plan = self.plan(size, fit)
        assert plan.original_size == size
        assert min(plan.resized_size) >= 1
        assert all(side > 0 and side % PATCH == 0 for side in plan.output_size)
        if fit != "aspect":
            assert plan.output_size == (32, 32)

    @given(size=image_sizes)
    def test_crop__is_the_middle_of_the_image(self, size: tuple[int, int]) -> None:
        plan = self.plan(size, "crop")
        top, left, bottom, right = plan.crop_box
        assert top >= 0
        assert left >= 0
        assert bottom <= size[0] + 1e-9
        assert right <= size[1] + 1e-9
        for before, after, resized, original in (
            (top, size[0] - bottom, plan.resized_size[0], size[0]),
            (left, size[1] - right, plan.resized_size[1], size[1]),
        ):
            assert abs(before - after) <= original / resized + 1e-9  # one pixel of the resized image

    @given(size=image_sizes)
    def test_pad__holds_the_whole_image_in_the_middle(self, size: tuple[int, int]) -> None:
        plan = self.plan(size, "pad")
        top, left, bottom, right = plan.crop_box
        assert max(top, left) <= 0
        assert bottom >= size[0] - 1e-9
        assert right >= size[1] - 1e-9
        assert max(plan.resized_size) == 32

    @given(size=image_sizes)
    def test_aspect__changes_the_aspect_by_half_a_patch_at_most(self, size: tuple[int, int]) -> None:
        if max(size) > MAX_ASPECT * min(size):
            with pytest.raises(ValueError, match="too long for fit='aspect'"):
                self.plan(size, "aspect")
            return
        plan = self.plan(size, "aspect")
        assert plan.crop_box == (0, 0, *size)
        scale = 32 / min(size)
        for side, fitted in zip(size, plan.output_size, strict=True):
            assert abs(side * scale - fitted) <= PATCH / 2 + 1e-9


class TestMaps:
    @given(seed=seeds, grid=small_grids, size=st.tuples(st.integers(1, 60), st.integers(1, 60)))
    def test_maps__sum_to_one_inside_of_the_box_and_vanish_outside(
        self, seed: int, grid: tuple[int, int], size: tuple[int, int]
    ) -> None:
        localization = torch.randn(grid[0] * grid[1], 3, generator=generator(seed)).softmax(dim=-1)
        corner = torch.rand(4, generator=generator(seed + 1))
        top, left = (corner[:2] * torch.tensor(size) * 0.6 - 2).tolist()
        bottom, right = top + 1 + size[0] * corner[2].item(), left + 1 + size[1] * corner[3].item()
        maps = resample_maps(localization, size, (top, left, bottom, right), grid)
        assert maps.shape == (3, *size)
        y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
        # Pixels on the very edge may fall either way.
        assume(
            min((y - top).abs().min(), (y - bottom).abs().min(), (x - left).abs().min(), (x - right).abs().min()) > 1e-3
        )
        inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None]
        torch.testing.assert_close(maps.sum(dim=0), inside.float(), rtol=0, atol=1e-5)


class TestParts:
    @given(seed=seeds, grid=st.tuples(st.integers(1, 32), st.integers(1, 32)), half=st.integers(1, 16))
    def test_position_code__is_pairs_on_the_unit_circle(self, seed: int, grid: tuple[int, int], half: int) -> None:
        code = fourier_position_code(torch.randn(2, half, generator=generator(seed)), grid)
        assert code.shape == (grid[0] * grid[1], 2 * half)
        norms = code.unflatten(1, (half, 2)).norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)

    @given(seed=seeds, codes=st.integers(1, 40), width=st.integers(1, 16))
    def test_nearest_code__is_nowhere_farther_than_another(self, seed: int, codes: int, width: int) -> None:
        latents = torch.randn(1, width, 3, 4, generator=generator(seed))
        codebook = torch.randn(codes, width, generator=generator(seed + 1))
        chosen = nearest_codes(latents, codebook)
        distances = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, width).double(), codebook.double())
        picked = distances.gather(1, chosen.view(-1, 1))[:, 0]
        torch.testing.assert_close(picked, distances.min(dim=1).values, rtol=0, atol=1e-4)

    @given(hidden=st.integers(1, 2048), intermediate=st.integers(1, 8192))
    def test_mlp_ratio__gives_timm_exactly_this_width(self, hidden: int, intermediate: int) -> None:
        assert int(hidden * mlp_ratio(intermediate, hidden)) == intermediate

    @given(blocks=st.integers(1, 48), data=st.data())
    def test_take_indices__are_ascending_blocks(self, blocks: int, data: st.DataObject) -> None:
        wanted = data.draw(st.lists(st.integers(-blocks, blocks - 1), max_size=10))
        taken = take_indices(blocks, wanted)
        assert taken == sorted({index % blocks for index in wanted})
        last = data.draw(st.integers(1, blocks))
        assert take_indices(blocks, last) == list(range(blocks))[-last:]
