"""Move, scale and mirror."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.editing import keep_tokens, mirror_token, move_token, scale_token, token_center
from stellar_hub.modeling import StellarEncoding

from .conftest import DTYPES, compact_encoding, encodings, make_encoding, maps_of

offsets = st.floats(-6, 6, width=32)


class TestMove:
    @given(encoding=encodings(DTYPES))
    def test_by_zero__is_the_identity_bit_for_bit(self, encoding: StellarEncoding) -> None:
        for zero in (0, 0.0, -0.0):
            assert torch.equal(move_token(encoding, 1, zero, zero).localization, encoding.localization)

    @pytest.mark.parametrize(("rows", "columns"), [(1, 0), (-1, 2), (0, -3)])
    def test_whole_patches__shift_the_values(self, rows: int, columns: int) -> None:
        encoding = make_encoding(grid=(6, 7))
        before, after = maps_of(encoding)[:, 1], maps_of(move_token(encoding, 1, rows, columns))[:, 1]
        expected = torch.zeros_like(before)
        for row in range(6):
            for column in range(7):
                if 0 <= row - rows < 6 and 0 <= column - columns < 7:
                    expected[:, row, column] = before[:, row - rows, column - columns]
        assert torch.equal(after, expected)

    def test_half_a_patch__is_the_mean_of_two(self) -> None:
        encoding = make_encoding(grid=(1, 6))
        before, after = maps_of(encoding)[:, 0, 0], maps_of(move_token(encoding, 0, 0, 0.5))[:, 0, 0]
        torch.testing.assert_close(after[:, 1:], (before[:, 1:] + before[:, :-1]) / 2)
        torch.testing.assert_close(after[:, 0], before[:, 0] / 2)

    @given(rows=st.floats(-1.5, 2.5), columns=st.floats(-2.5, 3.5))
    def test_center_of_a_map_that_stays_inside__moves_as_told(self, rows: float, columns: float) -> None:
        encoding = compact_encoding()
        moved = token_center(move_token(encoding, 0, rows, columns), 0) - token_center(encoding, 0)
        torch.testing.assert_close(moved[0], torch.tensor([rows, columns], dtype=torch.float64), rtol=0, atol=1e-9)

    @given(encoding=encodings(sharpness=1.0), rows=offsets, columns=offsets)
    def test_others__keep_their_proportions(self, encoding: StellarEncoding, rows: float, columns: float) -> None:
        moved = move_token(encoding, 0, rows, columns).localization
        before, after = encoding.localization[..., 1:], moved[..., 1:]
        left = 1 - moved[..., :1]
        torch.testing.assert_close(after, left * before / before.sum(dim=-1, keepdim=True), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("offset", [40, 1e30, -1e300, 10**50])
    def test_out_of_the_image__leaves_no_weight(self, offset: float) -> None:
        encoding = make_encoding(dtype=torch.float32)
        assert (move_token(encoding, 2, offset, 0).localization[..., 2] == 0).all()
        assert (move_token(encoding, 2, 0.5, offset).localization[..., 2] == 0).all()

    def test_gradients__reach_the_offsets(self) -> None:
        rows, columns = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
        encoding = make_encoding()
        center = token_center(move_token(encoding, 0, rows + 0.25, columns + 0.25), 0)
        center.sum().backward()
        for offset in (rows, columns):
            assert offset.grad is not None
            assert offset.grad.isfinite().all()
            assert (offset.grad != 0).all()

    def test_offsets_per_image__move_each_its_own_way(self) -> None:
        encoding = make_encoding()
        together = move_token(encoding, 1, torch.tensor([1.0, -2.0]), torch.tensor(0.5))
        for index, rows in enumerate((1.0, -2.0)):
            expected = move_token(encoding.select(index), 1, rows, 0.5)
            assert torch.equal(together.select(index).localization, expected.localization)

    def test_only_token_with_weight__stays(self) -> None:
        encoding = keep_tokens(make_encoding(), 1)
        torch.testing.assert_close(move_token(encoding, 1, 2, 2).localization, encoding.localization)


class TestScale:
    @given(encoding=encodings(DTYPES))
    def test_by_one__is_the_identity_bit_for_bit(self, encoding: StellarEncoding) -> None:
        assert torch.equal(scale_token(encoding, 1, 1).localization, encoding.localization)

    def test_twice__repeats_the_values_about_the_center(self) -> None:
        encoding = compact_encoding()
        before, after = maps_of(encoding)[0, 0], maps_of(scale_token(encoding, 0, 2, center=(3, 3)))[0, 0]
        torch.testing.assert_close(after[1::2, 1::2], before[2:6, 2:6])

    @given(factor=st.floats(0.5, 1.25))
    def test_center_of_mass__stays_by_default(self, factor: float) -> None:
        row, column = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing="ij")
        blob = 0.9 * torch.exp(-((row - 7) ** 2 + (column - 6.6) ** 2) / 6).double().flatten()
        encoding = StellarEncoding(
            torch.zeros(1, 2, 3, dtype=torch.float64), torch.stack([blob, 1 - blob], dim=-1)[None], (15, 15)
        )
        scaled = scale_token(encoding, 0, factor)
        torch.testing.assert_close(token_center(scaled, 0), token_center(encoding, 0), rtol=0, atol=0.02)
        areas = [float(each.localization[..., 0].sum()) for each in (encoding, scaled)]
        assert areas[1] == pytest.approx(factor**2 * areas[0], rel=0.05)

    @pytest.mark.parametrize("factor", [0, -1, 1e-3, 101, 1e300])
    def test_factor_out_of_range__is_refused(self, factor: float) -> None:
        with pytest.raises(ValueError, match=r"factor must be from 0.01 to 100, got"):
            scale_token(make_encoding(), 0, factor)

    @pytest.mark.parametrize("factor", [0.01, 100])
    def test_extreme_factors__give_finite_maps(self, factor: float) -> None:
        scaled = scale_token(make_encoding(), 0, factor, center=(-1e30, 1e30)).localization
        assert scaled.isfinite().all()

    def test_center_as_a_tensor__is_that_of_token_center(self) -> None:
        encoding = make_encoding()
        own = scale_token(encoding, 1, 1.5, center=token_center(encoding, 1))
        torch.testing.assert_close(own.localization, scale_token(encoding, 1, 1.5).localization)

    @pytest.mark.parametrize("center", [3, "ab", (1, 2, 3), {1, 2}])
    def test_center_that_is_no_pair__is_refused(self, center: object) -> None:
        with pytest.raises(TypeError, match="center must be a pair"):
            scale_token(make_encoding(), 0, 2, center=center)  # type: ignore[arg-type]

    def test_center_of_another_shape__is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"center must have shape \(2,\) or \(B, 2\)"):
            scale_token(make_encoding(), 0, 2, center=torch.zeros(2, 3))


class TestMirror:
    @pytest.mark.parametrize("axis", ["horizontal", "vertical"])
    @given(top=st.integers(1, 4), left=st.integers(1, 6))
    def test_twice__is_the_identity_for_a_map_that_stays_inside(self, axis: str, top: int, left: int) -> None:
        encoding = compact_encoding((9, 10), top, left)
        once = mirror_token(encoding, 0, axis)  # type: ignore[arg-type]
        twice = mirror_token(once, 0, axis)  # type: ignore[arg-type]
        assert not torch.allclose(once.localization, encoding.localization)
        torch.testing.assert_close(twice.localization, encoding.localization, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("axis", "dimension"), [("horizontal", 1), ("vertical", 0)])
    def test_values__change_sides(self, axis: str, dimension: int) -> None:
        encoding = compact_encoding()
        before = maps_of(encoding)[0, 0, 2:5, 3:5]
        after = maps_of(mirror_token(encoding, 0, axis))[0, 0]  # type: ignore[arg-type]
        found = after[:, after.sum(dim=0) > 0][after.sum(dim=1) > 0]
        assert torch.equal(found, before.flip(dimension))

    def test_another_axis__is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"axis must be .* got 'x'"):
            mirror_token(make_encoding(), 0, "x")  # type: ignore[arg-type]
