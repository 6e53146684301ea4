"""The list of formats, and the filters before them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import encodings
from service.encodings import MaskView, overlay, runs, selection
from service.errors import BadParameter, UnknownClass, UnsupportedFormat
from service.pipeline import manifest
from tests.conftest import BLUE, GREEN, RED, make_image, make_labels, make_manifest
from tests.maps import STREET_CLASSES, streets

MANIFEST = make_manifest()


@pytest.fixture
def view() -> MaskView:
    """The three stripes and their mask."""
    return MaskView(
        labels=make_labels(),
        image=make_image(),
        model=MANIFEST,
        sha256="ab" * 32,
        confidence=lambda: np.full((96, 128), 200, np.uint8),
    )


def test_the_contract_s_formats_exist() -> None:
    """What the contract names can be asked for, and the default is an indexed PNG."""
    assert set(encodings.FORMATS) >= {"png", "rle", "coco", "overlay", "color", "gray", "npy", "confidence"}
    assert set(encodings.FORMATS) >= {"coco-uncompressed", "labelstudio", "autoware", "cvat", "polygons"}
    assert encodings.DEFAULT_FORMAT == "png"


@pytest.mark.parametrize("name", encodings.PICTURE_FORMATS)
def test_every_format_gives_its_media_type(name: str, view: MaskView) -> None:
    """Images are PNG, documents JSON, and a JSON format's document is what its body says."""
    encoded = encodings.encode(name, view)
    chosen = encodings.FORMATS[name]
    assert encoded.media_type == chosen.media_type
    assert encoded.body.startswith(b"\x89PNG") == (chosen.media_type == "image/png")
    assert (chosen.document is not None) == ("json" in chosen.media_type)
    if chosen.document is not None and not chosen.things:
        assert json.loads(encoded.body) == json.loads(encodings.to_json(chosen.document(view)))


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("png", "P", make_labels()),
        ("gray", "L", make_labels()),
        ("color", "RGB", make_image()),
        ("overlay", "RGB", make_image()),  # the stripes' colours are the classes' colours
        ("confidence", "L", np.full((96, 128), 200)),
    ],
)
def test_every_image_format_shows_the_mask(name: str, mode: str, expected: np.ndarray, view: MaskView) -> None:
    """Pillow reads each image format as what it is named for."""
    image = Image.open(io.BytesIO(encodings.encode(name, view).body))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize("name", [name for name, form in encodings.FORMATS.items() if form.document])
def test_every_document_says_which_model_made_it(name: str, view: MaskView) -> None:
    """A stored document can be traced to the very file of the model."""
    document = json.loads(encodings.encode(name, view).body)
    assert document["model"] == {"name": "colours", "version": "1.0.0", "sha256": "ab" * 32}


WITH_CLASSES = ("rle", "coco", "coco-uncompressed", "labelstudio", "cvat", "polygons")


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_documents_list_the_classes_that_are_present(name: str, view: MaskView) -> None:
    """In the order of the class table."""
    document = json.loads(encodings.encode(name, view).body)
    assert [entry["name"] for entry in document["classes"]] == ["red", "green", "blue"]


STREET = MaskView(
    labels=streets()[0],
    image=np.zeros((*streets()[0].shape, 3), np.uint8),
    model=make_manifest(classes=[entry.model_dump() for entry in STREET_CLASSES]),
    sha256="ab" * 32,
    confidence=lambda: np.where(np.arange(streets()[0].size) % 3, 240, 20).astype(np.uint8).reshape(streets()[0].shape),
)
"""A drawn street; every third pixel is uncertain."""

DECODABLE = [name for name in encodings.PICTURE_FORMATS if encodings.FORMATS[name].decode]
SIZED = [name for name, form in encodings.FORMATS.items() if form.decode_sized]


def written(name: str, **query: Any) -> bytes:
    """The street in a format, with what a query asks for."""
    options = encodings.understood(name, STREET.model.classes, **query)
    return encodings.encode(name, replace(STREET, options=options)).body


@pytest.mark.parametrize("name", [*DECODABLE, *SIZED])
def test_filters_and_ids_compose_in_every_format_that_holds_labels(name: str) -> None:
    """Uncertain pixels go, then other classes, then the ids change; what comes back is exactly that."""
    body = written(name, classes=["car,road", "tree"], min_confidence=0.5, ids="cityscapes-label")
    expected = np.full(STREET.labels.shape, 255, np.uint8)
    for own, theirs in ((8, 26), (3, 7), (5, 21)):
        expected[(STREET.labels == own) & (STREET.confidence() > 127)] = theirs
    assert np.array_equal(encodings.decode(name, body, (180, 240)), expected)


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_unlabelled_pixels_have_no_entry(name: str) -> None:
    """255 is listed nowhere, and the shares say how much is missing."""
    document = json.loads(written(name, classes=["car", "road"], ids="autoware", statistics=True))
    assert [(entry["id"], entry["name"]) for entry in document["classes"]] == [(7, "vehicle"), (9, "road")]
    kept = np.isin(STREET.labels, [8, 3])
    assert sum(entry["share"] for entry in document["classes"]) == pytest.approx(kept.mean())
    assert sum(entry["pixels"] for entry in document["classes"]) == kept.sum()
    for entry, own in zip(document["classes"], (8, 3), strict=True):
        assert entry["confidence"] == pytest.approx(STREET.confidence()[STREET.labels == own].mean() / 255, abs=1e-4)
        assert len(entry["bbox"]) == 4


def test_palettes_follow_the_ids() -> None:
    """Indexed and coloured pictures show a table's ids in the table's colours, and unlabelled pixels in black."""
    indexed = Image.open(io.BytesIO(written("png", classes=["car"], ids="cityscapes-train")))
    colored = Image.open(io.BytesIO(written("color", classes=["car"], ids="cityscapes-train")))
    car = STREET.labels == 8
    assert (np.asarray(indexed)[car] == 13).all()
    for picture in (np.asarray(indexed.convert("RGB")), np.asarray(colored)):
        assert (picture[car] == (0, 0, 142)).all()
        assert (picture[~car] == 0).all()


@pytest.mark.parametrize("name", [name for name in WITH_CLASSES if "instances" in encodings.FORMATS[name].takes])
def test_instances_are_masks_of_their_own_and_still_the_same_map(name: str) -> None:
    """Each component of a thing is an entry; small ones are dropped; what is left decodes to the labels."""
    document = json.loads(written(name, instances=True, statistics=True))
    assert np.array_equal(encodings.decode(name, json.dumps(document).encode()), STREET.labels)
    for entry in document["classes"]:
        assert ("component" in entry) == (entry["name"] in ("car", "pedestrian", "bicyclist"))
        assert sum(other["pixels"] for other in document["classes"] if other["id"] == entry["id"]) == np.count_nonzero(
            STREET.labels == entry["id"]
        )
    big = json.loads(written(name, instances=True, min_area=60))["classes"]
    sizes = [entry["pixels"] for entry in document["classes"] if "component" in entry]
    assert min(sizes) < 60 <= max(sizes)
    assert [entry["pixels"] for entry in big if "component" in entry] == [size for size in sizes if size >= 60]


def test_a_legend_names_the_classes_present() -> None:
    """Drawn over the picture, of its own size, with a line for what is unlabelled."""
    plain = np.asarray(Image.open(io.BytesIO(written("overlay", classes=["car"]))))
    drawn = np.asarray(Image.open(io.BytesIO(written("overlay", classes=["car"], legend=True))))
    assert drawn.shape == plain.shape == STREET.image.shape
    changed = np.argwhere((drawn != plain).any(-1))
    assert 0 < len(changed) < 0.3 * plain[..., 0].size
    assert (drawn == (64, 0, 128)).all(-1).any()


def test_a_tolerance_reaches_the_polygons() -> None:
    """The document says it, and is smaller."""
    exact, rough = (json.loads(written("polygons", tolerance=tolerance)) for tolerance in (0.0, 1.5))
    assert (exact["tolerance"], rough["tolerance"]) == (0.0, 1.5)
    assert len(json.dumps(rough)) < 0.6 * len(json.dumps(exact))


@pytest.mark.parametrize(
    ("name", "query", "error", "match"),
    [
        ("png", {"instances": True}, BadParameter, "coco, coco-uncompressed, coco-dataset, panoptic, instance-ids"),
        ("rle", {"instances": True}, BadParameter, "coco"),
        ("png", {"statistics": True}, BadParameter, "rle, coco"),
        ("color", {"legend": True}, BadParameter, "overlay"),
        ("coco", {"tolerance": 1.0}, BadParameter, "polygons"),
        ("coco", {"min_area": 5}, BadParameter, "instances=true"),
        ("rle", {"min_area": 5}, BadParameter, "coco, coco-uncompressed"),
        ("coco", {"ids": "kitti"}, BadParameter, "cityscapes-train"),
        ("png", {"palette": "loud"}, BadParameter, "model, bright"),
        ("gray", {"palette": "bright"}, BadParameter, "png, overlay, color"),
        ("coco", {"classes": ["unicorn"]}, UnknownClass, "pedestrian"),
        ("jpeg", {}, UnsupportedFormat, "png, rle"),
    ],
)
def test_what_cannot_be_done_is_refused_beforehand(
    name: str, query: dict[str, Any], error: type[Exception], match: str
) -> None:
    """The message says what would have worked."""
    with pytest.raises(error, match=match):
        encodings.understood(name, STREET.model.classes, **query)


def test_several_formats_share_what_each_of_them_can_do() -> None:
    """A run that writes a mask, an overlay and a document has the legend in the one and statistics in the other."""
    query: dict[str, Any] = {"classes": ["car"], "legend": True, "statistics": True, "instances": True, "min_area": 5}
    options = encodings.understood_together(["png", "overlay", "rle", "coco"], STREET_CLASSES, **query)
    (car,) = (row.id for row in STREET_CLASSES if row.name == "car")
    assert {form.keep for form in options.values()} == {frozenset((car,))}
    assert [name for name, form in options.items() if form.legend] == ["overlay"]
    assert [name for name, form in options.items() if form.statistics] == ["rle", "coco"]
    assert [name for name, form in options.items() if form.instances or form.min_area] == ["coco"]
    with pytest.raises(BadParameter, match=r"legend means nothing to png; it is for format=overlay"):
        encodings.understood_together(["png", "rle"], STREET_CLASSES, legend=True)
    with pytest.raises(UnsupportedFormat, match="no format 'jpeg'"):
        encodings.understood_together(["png", "jpeg"], STREET_CLASSES)


def test_what_holds_no_labels_cannot_be_decoded() -> None:
    """Pictures are for people; Autoware's runs need to be told their size."""
    for name in ("overlay", "color", "confidence"):
        with pytest.raises(UnsupportedFormat, match="png, rle"):
            encodings.decode(name, written(name))
    with pytest.raises(UnsupportedFormat, match="needs a size"):
        encodings.decode("autoware", written("autoware"))


@pytest.mark.parametrize("name", DECODABLE)
@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b"[1, 2]", b'{"size": [2, 2]}'])
def test_what_is_not_of_a_format_is_a_value_error(name: str, body: bytes) -> None:
    """One kind of error, whatever came over the wire."""
    with pytest.raises(ValueError, match=r"."):
        encodings.decode(name, body)


def test_confidence_is_computed_only_for_its_own_format(view: MaskView) -> None:
    """The other formats do not pay for it, and the registry says which ones do."""

    def refused() -> np.ndarray:
        raise AssertionError("the confidence is not asked for")

    some = lambda rows, columns: np.full(rows.shape, 200, np.uint8)  # noqa: E731  (free space asks for a pixel a column)
    for name in set(encodings.PICTURE_FORMATS) - {"confidence", "panoptic"}:
        encodings.encode(name, replace(view, confidence=refused, some_confidence=some))
        assert not encodings.uses_confidence(name, encodings.Options())
        assert encodings.uses_confidence(name, encodings.Options(min_confidence=0.5))
    assert encodings.uses_confidence("confidence", encodings.Options())
    assert encodings.uses_confidence("panoptic", encodings.Options())


def test_an_unknown_format_names_those_that_exist(view: MaskView) -> None:
    """The caller learns what would have worked."""
    with pytest.raises(UnsupportedFormat, match="png, rle") as caught:
        encodings.encode("jpeg2000", view)
    assert caught.value.allowed == list(encodings.FORMATS)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [(["red"], {0}), (["0"], {0}), (["red,2"], {0, 2}), (["green", " blue ,"], {1, 2}), (["red", "red"], {0})],
)
def test_classes_are_found_by_name_or_id(wanted: list[str], ids: set[int]) -> None:
    """Repeated or separated by commas, names and ids can be mixed."""
    assert selection.class_ids(wanted, MANIFEST.classes) == ids


def test_a_name_may_be_spelt_like_an_id_or_hold_a_comma() -> None:
    """What is in the table is found as it is written there; a name wins over an id."""
    rows = [{"id": 0, "name": "1", "color": RED}, {"id": 1, "name": "car, parked", "color": GREEN}]
    table = make_manifest(classes=rows).classes
    assert selection.class_ids(["1"], table) == {0}
    assert selection.class_ids(["car, parked"], table) == {1}


@pytest.mark.parametrize("wanted", ["yellow", "3", "255", "-1", "Red", "red,yellow"])
def test_an_unknown_class_names_the_known_ones(wanted: str) -> None:
    """The caller learns what the model knows."""
    with pytest.raises(UnknownClass, match="red, green, blue") as caught:
        selection.class_ids([wanted], MANIFEST.classes)
    assert caught.value.allowed == ["red", "green", "blue"]


def test_an_unknown_class_of_any_length_makes_a_short_message() -> None:
    """What a caller sends comes back cut."""
    with pytest.raises(UnknownClass) as caught:
        selection.class_ids(["y" * 30_000], MANIFEST.classes)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("wanted", [[], [""], [" , "]])
def test_wanting_no_class_at_all_is_a_mistake(wanted: list[str]) -> None:
    """An empty filter is refused instead of answered with an empty mask."""
    with pytest.raises(BadParameter, match="classes"):
        selection.class_ids(wanted, MANIFEST.classes)


def test_only_the_wanted_classes_are_kept() -> None:
    """Every other pixel becomes 255, and the map that was given stays as it is."""
    labels = make_labels()
    kept = selection.keep_classes(labels, {0, 2})
    assert np.array_equal(kept, np.where(labels == 1, 255, labels))
    assert np.array_equal(labels, make_labels())


def test_uncertain_pixels_lose_their_class() -> None:
    """Below the bar is 255, at the bar and above it keeps its class."""
    labels = np.array([[0, 1, 2, 1]], np.uint8)
    confidence = np.array([[0, 127, 128, 255]], np.uint8)
    assert selection.drop_uncertain(labels, confidence, 128 / 255).tolist() == [[255, 255, 2, 1]]
    assert selection.drop_uncertain(labels, confidence, 0).tolist() == labels.tolist()
    assert selection.drop_uncertain(labels, confidence, 1).tolist() == [[255, 255, 255, 1]]
    assert selection.drop_uncertain(labels, confidence, 0.5).dtype == np.uint8


@pytest.mark.parametrize("bar", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_confidence_beyond_0_to_1_is_refused(bar: float) -> None:
    """A percentage by mistake is told, not obeyed."""
    with pytest.raises(BadParameter, match="min_confidence"):
        selection.drop_uncertain(make_labels(), make_labels(), bar)


def test_there_is_one_unlabelled() -> None:
    """The filters' 255 is the manifest's, and the overlay's."""
    assert runs.UNLABELLED == manifest.UNLABELLED
    assert overlay._UNLABELLED == manifest.UNLABELLED


def test_colours_reach_the_palette_of_the_png(view: MaskView) -> None:
    """A viewer shows the mask in the class table's colours."""
    image = Image.open(io.BytesIO(encodings.encode("png", view).body)).convert("RGB")
    assert [image.getpixel((x, 5)) for x in (0, 64, 127)] == [RED, GREEN, BLUE]
