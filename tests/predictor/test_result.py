"""Detections with names: parts, drawings, and the formats in which they are handed on."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from PIL import Image

import detkit
from detkit.config import ConfigError, get_cfg
from detkit.predictor import NamedInstances, read_bgr

METADATA = Metadata(name="test").set(thing_classes=["cat", "dog"], category_ids=[17, 18])
PHOTO = np.full((40, 60, 3), (10, 100, 200), np.uint8)  # BGR


def found(image: Any = PHOTO, metadata: Metadata = METADATA, **fields: Any) -> NamedInstances:
    instances = Instances((40, 60), pred_boxes=Boxes(torch.tensor([[2.0, 3, 22, 33], [30, 5, 50, 25]])))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.2]), torch.tensor([1, 0])
    for name, value in fields.items():
        instances.set(name, value)
    return NamedInstances(instances, metadata, image)


def test_parts_know_their_names_and_image() -> None:
    instances = found()
    assert instances.names == ["dog", "cat"] and instances.class_names == ["cat", "dog"]
    for part in (instances[instances.scores > 0.5], instances[0], instances.to("cpu")[:1]):
        assert isinstance(part, NamedInstances) and part.names == ["dog"] and part.draw().width == 520
    assert str(instances[:1]).startswith("1 detections on 60 x 40 pixels: 1 dog")
    assert Instances.cat([instances, instances]).scores.tolist() == pytest.approx([0.9, 0.2] * 2)


def test_coco_entries() -> None:
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 3:33, 2:22] = True
    points = torch.tensor([[[4.5, 6.5, 0.8]], [[31.5, 7.5, 0.1]]])
    instances = found(pred_masks=masks, pred_keypoints=points)
    first, second = instances.to_coco(5)
    assert first["image_id"] == 5 and (first["category_id"], second["category_id"]) == (18, 17)
    assert first["bbox"] == [2, 3, 20, 30] and first["segmentation"]["size"] == [40, 60]
    assert first["keypoints"] == pytest.approx([4.0, 6.0, 0.8])
    assert instances.to_coco(5)[0]["keypoints"] == first["keypoints"]  # Detectron2's function moves them in place
    assert instances.to_coco(category_ids=[1, 2])[0]["category_id"] == 2
    plain = found(metadata=Metadata(name="plain").set(thing_classes=["cat", "dog"]))
    assert [entry["category_id"] for entry in plain.to_coco()] == [1, 0]


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package, which gets what its ``Detections`` take."""
    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=lambda **fields: types.SimpleNamespace(**fields)))
    given = found(pred_masks=torch.ones(2, 40, 60)).to_supervision()
    assert given.xyxy.tolist() == [[2, 3, 22, 33], [30, 5, 50, 25]] and given.class_id.tolist() == [1, 0]
    assert given.confidence.dtype == np.float32 and given.mask.dtype == bool and given.mask.shape == (2, 40, 60)
    assert given.data["class_name"].tolist() == ["dog", "cat"] and found().to_supervision().mask is None
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        found().to_supervision()


def test_drawing_needs_the_image() -> None:
    plain = np.asarray(found().draw(min_score=1.0))
    assert plain[5, 5].tolist() == [200, 100, 10]  # RGB
    both, one = (np.asarray(found().draw(min_score=score), int) for score in (0.1, 0.5))
    assert (both != one)[:, 270:].any() and not (both != one)[:, :180].any()
    with pytest.raises(ValueError, match=r"do not know their image: name it"):
        found(None).draw()
    with pytest.raises(ValueError, match="of an image of 60 x 40 pixels, this one has 50 x 40"):
        found().draw(PHOTO[:, :50])


def test_images_of_every_kind_have_the_same_pixels(tmp_path: Path) -> None:
    rgb = PHOTO[..., ::-1].copy()
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(rgb.transpose(2, 0, 1).copy())
    for image in (PHOTO, Image.fromarray(rgb), tmp_path / "photo.png", tensor, tensor / 255, (tensor / 255).double()):
        np.testing.assert_array_equal(read_bgr(image), PHOTO)
    assert read_bgr(tensor[:1]).shape == PHOTO.shape
    every = torch.arange(256).view(1, 16, 16)
    for image in (every / 255, (every / 255).half()):  # back to whole numbers, in half precision too
        assert read_bgr(image)[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.zeros(40, 60, 3), r"shape \(40, 60, 3\)\. It has to be \(3, H, W\) in the order RGB"),
        (torch.full((3, 4, 4), 255.0), "float32 with values beyond 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "beyond 0 to 1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"a tensor of torch\.int64"),
        (np.zeros((0, 4), np.uint8), r"has the shape \(0, 4\)"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_bgr(image)


def test_tensors_and_lists_of_mixed_sizes(trained: Path) -> None:
    predictor = detkit.Predictor.from_run(trained / "out")
    small, large = torch.rand(3, 40, 50), torch.rand(3, 70, 60)
    results = predictor([small, large, PHOTO], batch_size=3)
    assert [result.image_size for result in results] == [(40, 50), (70, 60), (40, 60)]
    for result, image in zip(results, (small, large, PHOTO), strict=True):
        # group norms average over the padding of a batch, too
        torch.testing.assert_close(result.scores[:20], predictor(image).scores[:20], rtol=0, atol=0.02)
    assert len(predictor(torch.stack([small, small]))) == 2


def test_names_travel_with_the_config_to_detectron2s_predictor(trained: Path) -> None:
    """As in a notebook that knows nothing of the data."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "balls_val" in catalog.list():
            catalog.remove("balls_val")
    cfg = get_cfg()
    cfg.merge_from_file(trained / "out" / "config.yaml")
    cfg.MODEL.WEIGHTS = str(trained / "out" / "model_final.pth")
    assert cfg.DATASETS.CLASS_NAMES == ["ball", "cube"]
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["ball", "cube"]
    # another run whose data had the same name
    other = get_cfg()
    other.merge_from_list(["DATASETS.TEST", ("balls_val",), "DATASETS.CLASS_NAMES", ["cow"]])
    assert MetadataCatalog.get("balls_val").thing_classes == ["cow"] and predictor.metadata.thing_classes == ["ball", "cube"]
    MetadataCatalog.remove("balls_val")


def test_registered_data_keeps_its_names(caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("shapes_val",), "DATASETS.CLASS_NAMES", ["cow"]])
    assert MetadataCatalog.get("shapes_val").thing_classes[0] == "person"
    assert "shapes_val is registered here with other classes (person, ellipse, rectangle ...) than DATASETS.CLASS_NAMES (cow" in caplog.text


@pytest.mark.parametrize(
    "name, message",
    [
        ("fcos_R_50_FPN_1x_mmdett", "There is no model 'fcos_R_50_FPN_1x_mmdett': .*Did you mean fcos_R_50_FPN_1x_mmdet"),
        ("quick/fcos_shape.yaml", r"Did you mean quick/fcos_shapes\.yaml"),
        (".", r"'\.' is a folder\. A run is read with Predictor\.from_run"),
    ],
)
def test_names_that_nothing_has(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detkit.Predictor(name)


def test_a_lazy_config_is_refused_by_that_word(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import os\nos.system('touch ran')\n")
    with pytest.raises(ConfigError, match=r"model\.py is a LazyConfig of Detectron2, .* Configs here are yaml files"):
        get_cfg().merge_from_file(tmp_path / "model.py")
    assert not Path("ran").exists()
