import colorsys
from typing import Any

import numpy as np
import pytest

from stellar_hub.data.scenes import CLASS_APPEARANCES, SCENE_CLASSES, ClassCue, Scene, draw_scene

SEEDS = range(40)
# What seeds 0 to 2 draw:
CLASSES = [
    ("ring", "star", "triangle", "crescent"),
    ("star", "triangle"),
    ("rectangle", "cross", "ellipse", "crescent"),
]
MASK_PIXELS = [445, 562, 602]
MEAN_LEVELS = [162.04, 110.79, 204.43]


class TestDrawScene:
    def test_seed__same_seed_same_bytes(self) -> None:
        first, second = draw_scene(7, size=48), draw_scene(7, size=48)
        assert first.image.tobytes() == second.image.tobytes()
        assert first.masks.tobytes() == second.masks.tobytes()
        assert first.classes == second.classes

    def test_seed__gives_the_scene_of_earlier_releases(self) -> None:
        # Published numbers are measured on scenes of given seeds.
        scenes = [draw_scene(seed, 48) for seed in range(3)]
        assert [scene.classes for scene in scenes] == CLASSES
        assert [scene.masks.sum() for scene in scenes] == pytest.approx(MASK_PIXELS, abs=2)
        assert [scene.image.mean() for scene in scenes] == pytest.approx(MEAN_LEVELS, abs=0.05)

    def test_seed__different_seeds_different_images(self) -> None:
        assert len({draw_scene(seed, size=24).image.tobytes() for seed in SEEDS}) == len(SEEDS)

    @pytest.mark.parametrize("size", [8, 33])
    def test_size__gives_shapes_and_dtypes(self, size: int) -> None:
        scene = draw_scene(3, size=size)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.classes), size, size)
        assert scene.masks.dtype == np.bool_

    @pytest.mark.parametrize("size", [8, 64])
    def test_masks__disjoint_and_not_empty(self, size: int) -> None:
        for seed in SEEDS:
            masks = draw_scene(seed, size=size).masks
            assert masks.sum(axis=0).max() == 1
            assert masks.any(axis=(1, 2)).all()

    def test_masks__leave_some_background(self) -> None:
        assert all(not draw_scene(seed).masks.any(axis=0).all() for seed in SEEDS)

    def test_masks__lie_on_what_an_object_changed(self) -> None:
        edges = [_edge_contrast(draw_scene(seed)) for seed in SEEDS]
        assert np.median(edges) > 1.5

    def test_max_objects__bounds_the_number_of_objects(self) -> None:
        counts = {len(draw_scene(seed, max_objects=3).classes) for seed in SEEDS}
        assert counts == {1, 2, 3}

    def test_classes__come_from_the_list_and_all_occur(self) -> None:
        seen = {name for seed in SEEDS for name in draw_scene(seed).classes}
        assert seen == set(SCENE_CLASSES)

    def test_images__vary_like_photographs(self) -> None:
        images = np.stack([draw_scene(seed).image for seed in SEEDS]).astype(np.float32) / 255.0
        saturation = images.max(axis=-1) - images.min(axis=-1)
        assert 0.35 < images.mean() < 0.65
        assert 0.15 < images.std() < 0.35
        assert np.median(saturation) < 0.25  # muted colours are the common ones

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"seed": -1}, "seed .* got -1"),
            ({"seed": 0, "size": 7}, "size .* 8 .* got 7"),
            ({"seed": 0, "max_objects": 0}, "max_objects .* got 0"),
            ({"seed": 0, "class_cue": "hue"}, "class_cue .* outline, texture, color, got 'hue'"),
        ],
    )
    def test_bad_argument__raises(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            draw_scene(**arguments)


class TestClassCue:
    def test_appearances__differ_between_all_classes(self) -> None:
        assert set(CLASS_APPEARANCES) == set(SCENE_CLASSES)
        textures, hues = zip(*CLASS_APPEARANCES.values(), strict=True)
        assert len(set(textures)) == len(set(hues)) == len(SCENE_CLASSES)

    @pytest.mark.parametrize("class_cue", ["outline", "texture", "color"])
    def test_class_cue__moves_no_object(self, class_cue: ClassCue) -> None:
        for seed in range(8):
            plain, scene = draw_scene(seed, 48), draw_scene(seed, 48, class_cue=class_cue)
            assert scene.classes == plain.classes
            np.testing.assert_array_equal(scene.masks, plain.masks)
            assert class_cue == "outline" or (scene.image != plain.image).any()

    def test_color__gives_the_objects_of_a_class_one_hue(self) -> None:
        colored, random = _hue_errors("color"), _hue_errors("outline")
        assert np.median(colored) < 0.04 < 0.15 < np.median(random)


def _hue_errors(class_cue: ClassCue) -> list[float]:
    """How far the objects of drawn scenes are from the hue of their class, in turns of the colour circle."""
    errors = []
    for seed in range(60):
        scene = draw_scene(seed, 64, 1, class_cue=class_cue)
        red, green, blue = scene.image[scene.masks[0]].mean(axis=0) / 255.0
        difference = abs(colorsys.rgb_to_hsv(red, green, blue)[0] - CLASS_APPEARANCES[scene.classes[0]][1])
        errors.append(min(difference, 1.0 - difference))
    return errors


def _edge_contrast(scene: Scene) -> float:
    """Mean step between neighbouring columns at the borders of masks, relative to that elsewhere."""
    owner = np.where(scene.masks.any(axis=0), scene.masks.argmax(axis=0), -1)  # (H, W)
    border = owner[:, 1:] != owner[:, :-1]
    step = np.abs(np.diff(scene.image.astype(np.float32), axis=1)).mean(axis=-1)
    return float(step[border].mean() / step[~border].mean())
