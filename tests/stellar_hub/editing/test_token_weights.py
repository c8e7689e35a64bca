"""Drop, keep, swap and paint."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.editing import drop_tokens, keep_tokens, paint_token, swap_tokens
from stellar_hub.modeling import StellarEncoding

from .conftest import encodings, make_encoding


class TestDrop:
    def test_dropped_tokens__have_no_weight_and_the_others_keep_their_proportions(self) -> None:
        encoding = make_encoding()
        dropped = drop_tokens(encoding, [1, 3]).localization
        assert (dropped[..., [1, 3]] == 0).all()
        expected = encoding.localization[..., [0, 2]]
        torch.testing.assert_close(dropped[..., [0, 2]], expected / expected.sum(dim=-1, keepdim=True))

    @given(encoding=encodings(sharpness=1.0))
    def test_all_tokens__are_refused(self, encoding: StellarEncoding) -> None:
        with pytest.raises(ValueError, match="keep at least one"):
            drop_tokens(encoding, range(encoding.semantics.shape[1]))

    def test_the_last_token_with_weight__is_refused_and_its_image_named(self) -> None:
        encoding = drop_tokens(make_encoding(), torch.tensor([[0, 1], [1, 2]]))
        with pytest.raises(ValueError, match="of image 1 "):
            drop_tokens(encoding, torch.tensor([[2, 2], [0, 3]]))

    def test_dropped_twice__stays_dropped(self) -> None:
        localization = drop_tokens(drop_tokens(make_encoding(), 0), 1).localization
        assert (localization[..., :2] == 0).all()

    def test_a_patch_where_the_others_had_nothing__is_shared_by_those_with_weight_elsewhere(self) -> None:
        localization = torch.tensor([[[1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.5, 0]]])
        dropped = drop_tokens(StellarEncoding(torch.zeros(1, 4, 2), localization), 0).localization
        torch.testing.assert_close(dropped[0, 0], torch.tensor([0, 0.5, 0.5, 0]))
        assert (dropped[..., 3] == 0).all()

    def test_keep__drops_all_others(self) -> None:
        encoding = make_encoding(num_tokens=5)
        kept, expected = keep_tokens(encoding, (4, 1)), drop_tokens(encoding, (0, 2, 3))
        assert torch.equal(kept.localization, expected.localization)

    def test_keep_nothing__is_refused(self) -> None:
        with pytest.raises(ValueError, match="keep at least one"):
            keep_tokens(make_encoding(), [])

    @pytest.mark.parametrize("shape", [(3, 1), (1, 2, 1)])
    def test_rows_for_other_images__are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\(k,\), the same for all images, or \(2, k\)"):
            drop_tokens(make_encoding(batch=2), torch.zeros(shape, dtype=torch.int64))


class TestSwap:
    @given(encoding=encodings())
    def test_swap__exchanges_two_columns_bit_for_bit(self, encoding: StellarEncoding) -> None:
        order = [1, 0, *range(2, encoding.semantics.shape[1])]
        swapped = swap_tokens(encoding, 0, 1).localization
        assert torch.equal(swapped, encoding.localization[..., order])

    @given(encoding=encodings())
    def test_swap_twice_or_with_itself__is_the_identity(self, encoding: StellarEncoding) -> None:
        for twice in (swap_tokens(swap_tokens(encoding, 0, 1), 1, 0), swap_tokens(encoding, 1, 1)):
            assert torch.equal(twice.localization, encoding.localization)


class TestPaint:
    def test_full_strength__gives_the_region_to_the_token_alone(self) -> None:
        encoding = make_encoding()
        region = torch.zeros(4, 5, dtype=torch.bool)
        region[1:3, 2] = True
        painted = paint_token(encoding, 2, region).localization
        inside = region.flatten()
        assert torch.equal(painted[:, inside, 2], torch.ones(2, 2, dtype=torch.float64))
        assert torch.equal(painted[:, ~inside], encoding.localization[:, ~inside])

    @given(encoding=encodings(sharpness=1.0), strength=st.floats(0, 1))
    def test_strength__is_the_share_of_what_the_token_lacked(self, encoding: StellarEncoding, strength: float) -> None:
        assert encoding.grid_size is not None
        painted = paint_token(encoding, 1, torch.ones(encoding.grid_size), strength).localization
        before = encoding.localization[..., 1]
        torch.testing.assert_close(painted[..., 1], before + strength * (1 - before), rtol=0, atol=1e-12)

    def test_region_per_image__paints_each_its_own(self) -> None:
        encoding = make_encoding(batch=2)
        regions = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(3))
        together = paint_token(encoding, 0, regions)
        for index in range(2):
            expected = paint_token(encoding.select(index), 0, regions[index])
            assert torch.equal(together.select(index).localization, expected.localization)

    @pytest.mark.parametrize("shape", [(5, 4), (20,), (3, 4, 5), (1, 1, 4, 5)])
    def test_region_of_another_shape__is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"region must have shape \(4, 5\) or \(2, 4, 5\)"):
            paint_token(make_encoding(), 0, torch.zeros(shape))

    @pytest.mark.parametrize("value", [-0.1, 1.1, torch.nan, torch.inf])
    def test_region_beyond_0_and_1__is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"region must lie in \[0, 1\]"):
            paint_token(make_encoding(), 0, torch.full((4, 5), value))

    def test_region_that_is_no_tensor__is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"region must be a tensor .* got list"):
            paint_token(make_encoding(), 0, [[True]])  # type: ignore[arg-type]


def test_only_token_with_weight__keeps_every_row() -> None:
    encoding = keep_tokens(make_encoding(), 2)
    painted = paint_token(encoding, 2, torch.full((4, 5), 0.5))
    torch.testing.assert_close(painted.localization, encoding.localization)
