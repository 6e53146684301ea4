"""Scans on the page: three planes with their labels, a slider for each, in a real browser against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Browser, FilePayload, Page, expect

from service.settings import Settings
from tests.conftest import encode_image, make_image, write_artifact
from tests.live import live_server
from tests.phantoms import nifti_bytes, scan_artifact, series, zipped
from tests.test_pages import choose, chromium, in_a_browser, legend, pixels, visit

pytestmark = in_a_browser
SHAPE = (20, 24, 22)
COLOURS = {0: (0, 60, 200), 1: (90, 60, 110), 2: (180, 60, 20)}
"""Of ``phantoms.scan_manifest``."""


def levels() -> NDArray[np.uint8]:
    """Class ids 0, 1 and 2 in blocks without symmetry along any axis."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[3:15, 4:20, 5:18] = 1
    truth[5:9, 6:18, 7:12] = 2
    return truth


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose default model takes pictures, and which has one for scans."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    scan_artifact(folder / "levels.onnx")
    with live_server(Settings(models_dir=folder, default_model="colours", max_voxels=100_000)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with chromium() as browser:
        yield browser


def slide(page: Page, plane: str, at: int) -> None:
    """Move a plane's slider to a slice, from 1."""
    page.locator(f"#{plane}").fill(str(at))


def sampled(drawn: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """What is drawn in the middle of each voxel of a slice of h x w."""
    rows = ((np.arange(size[0]) + 0.5) * drawn.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * drawn.shape[1] / size[1]).astype(int)
    return np.asarray(drawn[rows][:, columns])


def shown(page: Page, plane: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Class ids of the slice on the screen, read from the colours in the middle of each voxel: h x w."""
    colours = sampled(pixels(page, f"{plane}-mask"), size)[..., :3].astype(int)
    distance = [np.abs(colours - colour).sum(-1) for colour in COLOURS.values()]
    assert np.min(distance, 0).max() < 6
    return np.asarray(np.argmin(distance, 0), np.uint8)


def expected(world: NDArray[Any], plane: str, at: int) -> NDArray[Any]:
    """A slice of a volume whose axes grow to the right, anterior and superior, as radiologists see it."""
    if plane == "axial":
        return world[::-1, ::-1, at].T
    if plane == "coronal":
        return world[::-1, at, ::-1].T
    return world[at, :, ::-1].T


Turn = Callable[[NDArray[Any]], NDArray[Any]]
ORIENTATIONS: dict[str, tuple[NDArray[np.float64], Turn]] = {
    "RAS": (np.eye(4), lambda truth: truth),
    "LPS": (np.diag([-1.0, -1, 1, 1]), lambda truth: truth[::-1, ::-1]),
    "axes exchanged": (np.eye(4)[[1, 2, 0, 3]], lambda truth: truth.transpose(1, 2, 0)),
}
"""An affine, and the way from the file's order to right, anterior, superior."""


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_scan_is_shown_in_three_planes_with_a_slider_each(name: str, base_url: str, browser: Browser) -> None:
    """Every slider shows the slice that it names, head up and the patient's right on the left, whatever the file's order."""
    affine, turned = ORIENTATIONS[name]
    scan = levels().astype(np.int16) * 500
    world, grey = turned(levels()), turned(scan)
    with visit(browser, base_url) as page:
        choose(page, nifti_bytes(scan, affine), "head.nii.gz")
        expect(page.locator("#planes")).to_be_visible()
        expect(page.locator("#frame")).to_be_hidden()
        assert page.locator("#model").input_value() == "levels"
        for axis, plane in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
            count = world.shape[axis]
            for at in (1, 8, count):
                slide(page, plane, at)
                expect(page.locator(f"#{plane}-value")).to_have_text(f"{at} of {count}")
                wanted = expected(world, plane, at - 1)
                np.testing.assert_array_equal(shown(page, plane, wanted.shape), wanted)
            slide(page, plane, 8)
            expect(page.locator(f"#{plane}-value")).to_have_text(f"8 of {count}")
            wanted = expected(grey, plane, 7).astype(float)
            image = sampled(pixels(page, f"{plane}-image"), wanted.shape)[..., 0]
            np.testing.assert_allclose(image, wanted * 255 / 1000, atol=1)  # black and white are the ends of the scan's range


def test_the_legend_tells_volumes_and_switches_classes_off(base_url: str, browser: Browser) -> None:
    """Millilitres come from the affine; a switched-off class leaves all three planes; axe finds nothing."""
    affine = np.diag([2.0, 1.5, 3, 1])
    with visit(browser, base_url) as page:
        choose(page, nifti_bytes(levels().astype(np.int16) * 500, affine, compressed=False), "head.nii")
        told = legend(page)
        assert set(told) == {"air", "grey", "white"}
        assert told["white"].split(" ml")[0].replace(".", "").isdigit()
        assert page.locator("#caption").inner_text().startswith("head.nii · 20 × 24 × 22 voxels · levels@1.0.0")
        box = page.locator("#axial-frame").bounding_box()
        assert box is not None
        assert abs(box["width"] / box["height"] - (20 * 2.0) / (24 * 1.5)) < 0.02
        page.locator("#legend button", has_text="air").click()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [one["id"] for one in found] == []
        for plane in ("axial", "coronal", "sagittal"):
            slide(page, plane, 1)
            assert not pixels(page, f"{plane}-mask")[..., 3].any()


def test_what_does_not_fit_scans_is_hidden_and_comes_back(base_url: str, browser: Browser) -> None:
    """Formats of pictures are not offered for a scan; the next picture is answered by the model for pictures."""
    with visit(browser, base_url) as page:
        choose(page, nifti_bytes(levels().astype(np.float32) * 0.5), "head.nii.gz")
        offered = page.locator("#format option:not([disabled])").all_inner_texts()
        assert set(offered) == {"nifti", "rle", "npy", "overlay"}
        for hidden in ("#sure", "#cut", "#fit"):
            expect(page.locator(hidden)).to_be_hidden()
        assert page.locator("#format").input_value() == "nifti"
        with page.expect_download() as download:
            page.locator("#download").click()
        assert download.value.suggested_filename == "head.nifti.nii.gz"
        page.set_input_files("#file", files=FilePayload(name="a.png", mimeType="image/png", buffer=encode_image(make_image())))
        expect(page.locator("#frame")).to_be_visible()
        expect(page.locator("#planes")).to_be_hidden()
        assert page.locator("#model").input_value() == "colours"
        assert "png" in page.locator("#format option:not([disabled])").all_inner_texts()
        expect(page.locator("#strip li")).to_have_count(2)
        page.locator("#strip button").first.click()
        expect(page.locator("#planes")).to_be_visible()


def test_dicom_is_shown_as_labels_alone(base_url: str, browser: Browser) -> None:
    """The page reads no DICOM; it says so, and the labels stand in their planes."""
    with visit(browser, base_url) as page:
        choose(page, zipped(series(levels().astype(np.int16) * 500)), "series.zip")
        expect(page.locator("#planes")).to_be_visible()
        assert "labels are shown alone" in page.locator("#note").inner_text()
        assert {"air", "grey", "white"} == set(legend(page))


def test_a_damaged_scan_is_an_error_in_words(base_url: str, browser: Browser) -> None:
    """What the service refuses is said, and nothing is shown."""
    with visit(browser, base_url, refused=True) as page:
        choose(page, nifti_bytes(levels().astype(np.int16))[:300], "head.nii.gz")
        expect(page.locator("#problem")).to_be_visible()
        expect(page.locator("#planes")).to_be_hidden()
