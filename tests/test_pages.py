"""The web pages, used as people use them: by a real browser against a real server, where there is a Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Position, Route, expect, sync_playwright
from pydantic import SecretStr

from service.api.pages import PAGE
from service.encodings import FORMATS
from service.encodings.palettes import bright
from service.errors import BY_CODE
from service.settings import Settings
from tests.conftest import BLUE, GREEN, RED, encode_image, make_image, make_manifest, write_artifact
from tests.live import live_server
from tests.test_predictor import make_panoptic, two_things

FOLDER = Path(__file__).resolve().parent.parent / "service" / "api" / "page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
PATIENCE_MS = 120_000

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian's is enough: apt-get install chromium")


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; its camera is a moving picture."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with chromium() as browser:
        yield browser


@contextmanager
def visit(
    browser: Browser, address: str, *, refused: bool = False, before: Callable[[Page], object] = lambda _: None, **options: Any
) -> Iterator[Page]:
    """A page in a profile of its own; afterwards, what it did to others and what went wrong in it is judged.

    Takes:
        refused: whether the service is to refuse something, which the browser's console repeats
        before: what to do with the page before it goes anywhere
    """
    context = browser.new_context(**{"viewport": DESK, **options})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    hosts: set[str] = set()
    complaints: list[str] = []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda line: complaints.append(f"{line.text} {line.location['url']}") if line.type in ("error", "warning") else None,
    )
    before(page)
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    assert hosts - {""} == {urlsplit(address).netloc}  # a blob: address has no host
    assert [line for line in complaints if not (refused and line.startswith("Failed to load resource"))] == []


def ready(page: Page) -> Page:
    """The page, once it knows the models."""
    page.locator("#model:enabled").wait_for()
    return page


def choose(page: Page, data: bytes, name: str = "stripes.png") -> None:
    """Choose a file, and wait for what comes of it."""
    ready(page)
    page.set_input_files("#file", files=FilePayload(name=name, mimeType="application/octet-stream", buffer=data))
    page.locator("body:is([data-state=result], [data-state=problem])").wait_for()


def drop(page: Page, data: bytes, name: str) -> None:
    """Drop a file onto the page, as a file manager does."""
    page.evaluate(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type: "image/png" }));
            for (const kind of ["dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
            }
        }""",
        [base64.b64encode(data).decode(), name],
    )


def pixels(page: Page, canvas: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """H x W x 4 uint8 RGBA: what is drawn on a canvas."""
    width, height, text = page.evaluate(
        """(id) => {
            const canvas = document.getElementById(id);
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
            return [canvas.width, canvas.height, btoa(text)];
        }""",
        canvas,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def legend(page: Page) -> dict[str, str]:
    """The shares that the legend tells, by class."""
    rows = page.locator("#legend li")
    return {row.locator("span").inner_text(): row.locator("b").inner_text() for row in rows.all()}


def segmented(base_url: str, data: bytes, **query: Any) -> httpx.Response:
    """The service's answer to the same image, without a page in between."""
    return httpx.post(f"{base_url}/segment", params=query, content=data).raise_for_status()


# --- files ---------------------------------------------------------------------------------------------------------------


def test_the_pages_and_everything_that_they_name_is_served(base_url: str) -> None:
    """Scripts, styles, samples and icon come from here, with their types and with headers that keep the pages to themselves."""
    named = set()
    for path in ("/", "/docs"):
        page = httpx.get(f"{base_url}{path}")
        assert page.headers["content-type"].startswith("text/html")
        named |= set(re.findall(r'(?:href|src)="page/([^"]+)"', page.text))
    assert named == PAGE - {"index.html", "docs.html"}
    for name in named:
        file = httpx.get(f"{base_url}/page/{name}")
        assert file.content == (FOLDER / name).read_bytes()
        policy = dict(rule.split(" ", 1) for rule in file.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert file.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{base_url}/page/..%2Fpages.py").status_code == 404


def test_what_has_not_changed_is_not_sent_again(base_url: str) -> None:
    """A phone that comes back loads nothing."""
    first = httpx.get(f"{base_url}/page/page.js")
    again = httpx.get(f"{base_url}/page/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers


def test_the_list_of_formats_is_the_registry(base_url: str) -> None:
    """Every format with its sentence, kept by a browser until it changes."""
    first = httpx.get(f"{base_url}/formats")
    rows = first.json()
    assert [row["name"] for row in rows] == list(FORMATS)
    for row in rows:
        form = FORMATS[row["name"]]
        assert (row["media_type"], row["suffix"], row["about"]) == (form.media_type, form.suffix, form.about)
        assert set(row["takes"]) == form.takes
        assert row["about"].endswith(".")
    for path in ("formats", "palettes"):
        for coding in ("gzip", "identity"):
            first = httpx.get(f"{base_url}/{path}", headers={"Accept-Encoding": coding})
            again = httpx.get(f"{base_url}/{path}", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", sorted(PAGE))
def test_the_page_asks_no_other_host(name: str) -> None:
    """A car has no internet, and its pictures are private: no address but the service's own, no inline script."""
    data = (FOLDER / name).read_bytes()
    assert len(data) <= 60_000
    if not name.endswith(".jpg"):
        text = data.decode()
        assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=\"|\bstyle=\"|@import|\burl\((?!#)|innerHTML", text)


# --- an image ------------------------------------------------------------------------------------------------------------


@in_a_browser
def test_a_dropped_image_comes_back_as_a_mask_that_can_be_asked(browser: Browser, base_url: str, png: bytes) -> None:
    """Drop a file: its classes, shares, sizes and times; switch one class off; ask a pixel for its class and confidence."""
    with visit(browser, base_url) as page:
        drop(ready(page), png, "stripes.png")
        page.locator("body[data-state=result]").wait_for()
        runs = segmented(base_url, png, format="rle").json()
        assert legend(page) == {row["name"]: f"{row['share']:.0%}".replace("%", " %") for row in runs["classes"]}
        expect(page.locator("#caption")).to_have_text("stripes.png · 128 × 96 · colours@1.0.0")
        expect(page.locator("#timing dt")).to_have_text(["decode", "queue", "infer", "labels", "encode", "upload, download"])
        expect(page.locator("#state")).to_contain_text("red 3")  # told to who cannot see it

        before = pixels(page, "mask")
        assert {tuple(color) for color in before.reshape(-1, 4)} == {(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)}
        green = page.get_by_role("button", name="green")
        green.click()
        expect(green).to_have_attribute("aria-pressed", "false")
        page.mouse.move(0, 0)
        after = pixels(page, "mask")
        assert (after[before[..., 1] == 255][:, 3] == 0).all()
        assert (after[before[..., 1] == 0] == before[before[..., 1] == 0]).all()
        expect(page.locator("#curl")).to_contain_text("classes=red,blue")
        green.click()

        box = page.locator("#frame").bounding_box()
        assert box is not None
        sure = np.array(Image.open(io.BytesIO(segmented(base_url, png, format="confidence").content)))
        for x, y, name in ((10, 20, "red"), (64, 48, "green"), (120, 90, "blue")):
            page.mouse.move(box["x"] + (x + 0.5) / 128 * box["width"], box["y"] + (y + 0.5) / 96 * box["height"])
            share = sure[y, x] / 255
            expect(page.locator("#probe b")).to_have_text(re.compile(rf"^{name} {share * 100:.0f} %$"))
            expect(page.locator("#probe span")).to_have_text(f"{x}, {y}")

        page.locator("#opacity").fill("20")
        assert page.locator("#mask").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.2"


@in_a_browser
def test_an_image_can_be_pasted(browser: Browser, base_url: str, png: bytes) -> None:
    """From the clipboard, by its own keys; a text there is told to be none."""
    with visit(browser, base_url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=base_url)
        ready(page).evaluate(
            """async (text) => {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                const item = new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) });
                await navigator.clipboard.write([item]);
            }""",
            base64.b64encode(png).decode(),
        )
        page.keyboard.press("Control+V")
        expect(page.locator("body")).to_have_attribute("data-state", "result")
        expect(page.locator("#caption")).to_contain_text("128 × 96 · colours@1.0.0")
        assert set(legend(page)) == {"red", "green", "blue"}
        page.evaluate("navigator.clipboard.writeText('Dear diary')")
        page.keyboard.press("Control+V")
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("No image to paste")
        expect(page.locator("#view")).to_be_visible()


@in_a_browser
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_mask_lies_on_its_image_pixel_by_pixel(browser: Browser, base_url: str, orientation: int) -> None:
    """At any zoom, and turned as the camera's EXIF says: where the mask says red, the picture is red."""
    rng = np.random.default_rng(orientation)
    blocks = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, (12, 17))] * 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_image(np.kron(blocks, np.ones((8, 8, 1), np.uint8)), "PNG", exif=exif)
    size = "96 × 136" if orientation == 6 else "136 × 96"
    with visit(browser, base_url, viewport={"width": 700, "height": 600}, device_scale_factor=1.25) as page:
        choose(page, data, "blocks.png")
        expect(page.locator("#caption")).to_contain_text(size)
        labels = np.load(io.BytesIO(segmented(base_url, data, format="npy").content))
        assert labels.shape == ((136, 96) if orientation == 6 else (96, 136))
        for zoom in (1, 4):
            drawn, picture = pixels(page, "mask"), pixels(page, "image")
            width = labels.shape[1] / zoom
            left, top = (labels.shape[1] - width) / 2, labels.shape[0] * (1 - 1 / zoom) / 2
            rows = (top + (np.arange(drawn.shape[0]) + 0.5) * labels.shape[0] / zoom / drawn.shape[0]).astype(int)
            columns = (left + (np.arange(drawn.shape[1]) + 0.5) * width / drawn.shape[1]).astype(int)
            assert (drawn[..., :3].argmax(2) == labels[np.ix_(rows, columns)]).all()
            # Of the picture only pixels beside no edge: there colours mix.
            truth = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
            truth = np.rot90(truth, -1) if orientation == 6 else truth
            inside = (picture[..., :3].max(2) > 250) & (np.sort(picture[..., :3], 2)[..., 1] < 5)
            assert inside.mean() > 0.5
            shown = truth[np.ix_(rows, columns)]
            # A shift by half a pixel would already be wrong at 8 % of them; the last screen pixel of an edge is the browser's.
            assert (picture[..., :3].argmax(2)[inside] == shown.argmax(2)[inside]).mean() > 0.99
            page.click("#in")
            page.click("#in")


@in_a_browser
def test_what_is_on_the_screen_can_be_taken_away(browser: Browser, base_url: str, png: bytes, tmp_path: Path) -> None:
    """Every format that the service lists; the file is the service's own reply, and the curl line fetches the same."""
    with visit(browser, base_url) as page:
        choose(page, png)
        query = httpx.get(f"{base_url}/openapi.json").json()["paths"]["/segment"]["post"]["parameters"]
        (formats,) = (one["schema"]["enum"] for one in query if one["name"] == "format")
        assert page.locator("#format option").all_inner_texts() == formats
        page.get_by_role("button", name="blue").click()
        page.locator("#sure").fill("40")
        page.locator("#format").select_option("coco")
        page.get_by_label("instances").check()
        page.get_by_label("ids").select_option("autoware")
        expect(page.locator("#curl")).to_contain_text(re.compile(r"format=coco&.*ids=autoware&instances=true"))
        page.get_by_label("ids").select_option("as the model")
        page.locator("#format").select_option("npy")  # has no instances
        expect(page.locator("#curl")).not_to_contain_text("instances")
        with page.expect_download() as waiting:
            page.click("#download")
        wanted = segmented(base_url, png, format="npy", classes="red,green", min_confidence=0.4).content
        assert waiting.value.suggested_filename == "stripes.npy.npy"
        assert Path(waiting.value.path()).read_bytes() == wanted
        shares = [row["share"] for row in segmented(base_url, png, format="rle", min_confidence=0.4).json()["classes"]]
        told = [float(share.removesuffix(" %")) / 100 for name, share in legend(page).items() if name != "unlabelled"]
        assert sorted(told) == pytest.approx(sorted([*shares, *[0.0] * (3 - len(shares))]), abs=0.006)
        line = page.locator("#curl").inner_text()
        page.click("#none")
        expect(page.locator("#download")).to_be_disabled()
    if shutil.which("curl"):
        (tmp_path / "stripes.png").write_bytes(png)
        subprocess.run(["sh", "-c", line.replace("curl ", "curl -sS ", 1)], cwd=tmp_path, check=True, timeout=30)
        assert (tmp_path / "stripes.npy.npy").read_bytes() == wanted


@in_a_browser
def test_a_text_is_refused_in_words_for_people(browser: Browser, base_url: str, png: bytes) -> None:
    """With what to do, and the service's own sentence below; the last result stays, under its own name."""
    with visit(browser, base_url, refused=True) as page:
        choose(page, png)
        choose(page, b"Dear diary", "notes.txt")
        problem = httpx.post(f"{base_url}/segment", content=b"Dear diary").json()
        alert = page.get_by_role("alert").filter(visible=True)
        expect(alert).to_contain_text("notes.txt: This file is not an image that can be read")
        expect(alert).to_contain_text("Choose a photo")
        expect(alert).to_contain_text(problem["detail"][1:])
        expect(page.locator("#view")).to_be_visible()
        expect(page.locator("#caption")).to_contain_text("stripes.png")
        assert set(legend(page)) == {"red", "green", "blue"}
        choose(page, png)
        expect(page.locator("#problem")).to_be_hidden()


@in_a_browser
def test_without_a_result_an_error_stands_alone(browser: Browser, base_url: str) -> None:
    """No empty picture beside it, and the samples stay at hand."""
    with visit(browser, base_url, refused=True) as page:
        choose(page, b"Dear diary", "notes.txt")
        expect(page.locator("#problem")).to_be_visible()
        expect(page.locator("#view")).to_be_hidden()
        expect(page.locator("#samples")).to_be_visible()


def test_words_for_people_exist_for_codes_that_exist() -> None:
    """A code that was renamed would lose its words."""
    codes = set(re.findall(r"^  (\w+): \[", (FOLDER / "words.js").read_text("utf-8"), re.MULTILINE))
    assert codes - {"unauthorized"} <= set(BY_CODE)  # HTTP's own word for 401
    assert {"unsupported_image", "corrupt_image", "image_too_large", "body_too_large", "overloaded"} <= codes


@in_a_browser
def test_the_page_says_what_it_is(browser: Browser, base_url: str) -> None:
    """Before anything is chosen: what happens to a picture, and which classes there are."""
    with visit(browser, base_url) as page:
        ready(page)
        expect(page.get_by_role("heading", name="pixel by pixel")).to_be_visible()
        expect(page.locator("#headline-classes")).to_contain_text("3 classes: red, green, blue")
        why = "Answers requests that name no model, in fp32: no int8 variant of it is served."
        expect(page.locator("#headline-why")).to_have_text(why)
        page.click("[data-sample]")
        expect(page.locator("#view")).to_be_visible()
        expect(page.locator("#headline")).to_be_hidden()


@in_a_browser
@pytest.mark.parametrize("name", ["drive.mp4", "it's a drive.MKV", "run.mcap"])
def test_a_video_is_answered_with_its_command(browser: Browser, base_url: str, name: str) -> None:
    """The page takes single images; the line for a terminal is quoted."""
    with visit(browser, base_url) as page:
        ready(page)
        page.set_input_files("#file", files=FilePayload(name=name, mimeType="application/octet-stream", buffer=b"film"))
        expect(page.locator("#problem")).to_contain_text("video or a recording")
        line = page.locator("#problem-command").inner_text()
        assert shlex.split(line) == ["fcn-serve", "segment", name]


@in_a_browser
def test_several_pictures_are_a_strip_and_a_zip(browser: Browser, base_url: str) -> None:
    """Each is segmented and can be shown; one that fails says so; all masks come as one zip, names and bytes right."""
    pictures = {f"{number}.png": encode_image(make_image(40 + number, 60)) for number in range(3)}
    files = [FilePayload(name=name, mimeType="image/png", buffer=data) for name, data in pictures.items()]
    files.insert(1, FilePayload(name="bad.png", mimeType="image/png", buffer=b"text"))
    with visit(browser, base_url, refused=True) as page:
        ready(page)
        page.set_input_files("#file", files=files)
        rows = page.locator("#strip li")
        expect(rows).to_have_count(4)
        expect(page.locator("#strip [data-status=done]")).to_have_count(3)
        expect(page.locator("#strip [data-status=failed]")).to_have_count(1)
        expect(page.locator("#caption")).to_contain_text("0.png · 60 × 40")
        page.get_by_role("button", name="2.png").click()
        expect(page.locator("#caption")).to_contain_text("2.png · 60 × 42")
        expect(page.locator("#strip [aria-current=true]")).to_contain_text("2.png")
        page.get_by_role("button", name="bad.png, failed").click()
        expect(page.locator("#problem")).to_contain_text("bad.png")
        expect(page.locator("#caption")).to_contain_text("2.png")
        page.locator("#format").select_option("gray")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download all").click()
        assert waiting.value.suggested_filename == "masks.gray.zip"
        with zipfile.ZipFile(waiting.value.path()) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [f"{number}.gray.png" for number in range(3)]
            for number, (name, data) in enumerate(pictures.items()):
                assert archive.read(f"{number}.gray.png") == segmented(base_url, data, format="gray").content, name


@in_a_browser
def test_a_click_shows_one_class_alone(browser: Browser, base_url: str, png: bytes) -> None:
    """By mouse or by Enter; a second one shows all again; the code follows."""
    with visit(browser, base_url) as page:
        choose(page, png)
        frame = page.locator("#frame")
        size = frame.bounding_box()
        assert size is not None
        middle: Position = {"x": size["width"] / 2, "y": size["height"] / 2}
        frame.click(position=middle)
        expect(page.locator("#curl")).to_contain_text("classes=green")
        page.mouse.move(0, 0)
        shown = pixels(page, "mask")
        assert {tuple(color) for color in shown.reshape(-1, 4) if color[3]} == {(0, 255, 0, 255)}
        frame.click(position=middle)
        expect(page.locator("#curl")).not_to_contain_text("classes=")
        frame.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator("#curl")).to_contain_text("classes=green")


@in_a_browser
def test_colours_outlines_and_a_cut_change_what_is_drawn(browser: Browser, base_url: str, png: bytes) -> None:
    """Bright colours are the service's own; outlines leave lines alone; left of the cut the mask is not drawn."""
    with visit(browser, base_url) as page:
        choose(page, png)
        page.locator("#palette").select_option("bright")
        wanted = {(*color, 255) for color in bright(3)}
        assert {tuple(color) for color in pixels(page, "mask").reshape(-1, 4)} == wanted
        expect(page.locator("#curl")).to_contain_text("palette=bright")
        page.locator("#format").select_option("rle")  # has no colours
        expect(page.locator("#curl")).not_to_contain_text("palette")
        page.locator("#outlines").check()
        drawn = pixels(page, "mask")[..., 3] > 0
        assert 0 < drawn.mean() < 0.05
        assert drawn.any(0).sum() == 4  # two borders between three stripes, two pixels each
        page.locator("#outlines").uncheck()
        page.locator("#cut").fill("40")
        assert page.locator("#mask").evaluate("(canvas) => getComputedStyle(canvas).clipPath") == "inset(0px 0px 0px 40%)"
        expect(page.locator("#cut-line")).to_be_visible()


@in_a_browser
def test_numbers_reach_the_query(browser: Browser, base_url: str, png: bytes) -> None:
    """``tolerance`` where a format takes it, ``min_area`` with things; an empty or impossible number is left out."""
    with visit(browser, base_url) as page:
        choose(page, png)
        page.locator("#format").select_option("polygons")
        page.get_by_label("tolerance").fill("1.5")
        page.get_by_label("instances").check()
        page.get_by_label("min area").fill("20")
        expect(page.locator("#curl")).to_contain_text(re.compile("tolerance=1.5"))
        expect(page.locator("#curl")).to_contain_text(re.compile("min_area=20"))
        page.get_by_label("tolerance").fill("1000")
        page.get_by_label("instances").uncheck()
        expect(page.locator("#curl")).not_to_contain_text("tolerance")
        expect(page.locator("#curl")).not_to_contain_text("min_area")


@in_a_browser
def test_the_python_code_fetches_what_is_on_the_screen(
    browser: Browser, base_url: str, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is run as it stands, beside the picture; the C++ code names the same address and file."""
    with visit(browser, base_url) as page:
        choose(page, png)
        page.get_by_role("button", name="blue").click()
        page.locator("#format").select_option("gray")
        page.get_by_role("button", name="C++").click()
        native = page.locator("#cpp").inner_text()
        page.get_by_role("button", name="Python").click()
        expect(page.locator("#curl")).to_be_hidden()
        code = page.locator("#python").inner_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stripes.png").write_bytes(png)
    exec(compile(code, "the page's Python", "exec"), {})
    wanted = segmented(base_url, png, format="gray", classes="red,green").content
    assert (tmp_path / "stripes.gray.png").read_bytes() == wanted
    assert f'"{base_url}/segment?format=gray&model=colours&classes=red,green"' in native
    compiler = shutil.which("c++")
    if compiler and Path("/usr/include/curl/curl.h").exists():
        (tmp_path / "page.cpp").write_text(native)
        subprocess.run([compiler, "page.cpp", "-lcurl", "-o", "page"], cwd=tmp_path, check=True, timeout=120)
        (tmp_path / "stripes.gray.png").unlink()
        subprocess.run(["./page"], cwd=tmp_path, check=True, timeout=60)
        assert (tmp_path / "stripes.gray.png").read_bytes() == wanted


@in_a_browser
def test_a_phone_shows_the_heading_first(browser: Browser, base_url: str) -> None:
    """What the page is for stands above the buttons."""
    with visit(browser, base_url, viewport=PHONE, is_mobile=True, has_touch=True) as page:
        tops = [page.locator(name).evaluate("node => node.getBoundingClientRect().top") for name in ("#headline", "#sources")]
        assert tops[0] < tops[1]


@in_a_browser
def test_two_models_are_shown_side_by_side(browser: Browser, tmp_path: Path, png: bytes) -> None:
    """The same picture with another model's mask, at the same zoom; switched off again."""
    write_artifact(tmp_path / "one.onnx", make_manifest())
    write_artifact(tmp_path / "two.onnx", make_manifest(name="other"))
    with live_server(Settings(models_dir=tmp_path, default_model="colours")) as url, visit(browser, url) as page:
        choose(page, png)
        page.get_by_label("Compare with").select_option("other")
        expect(page.locator("#second-caption")).to_have_text("other@1.0.0")
        found = {tuple(color) for color in pixels(page, "second-mask").reshape(-1, 4)}
        assert found == {(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)}
        page.click("#in")
        page.click("#in")
        assert {tuple(color) for color in pixels(page, "second-mask").reshape(-1, 4)} == {(0, 255, 0, 255)}
        page.get_by_label("Compare with").select_option("")
        expect(page.locator("#second")).to_be_hidden()
        page.locator("#model").select_option("other")
        expect(page.locator("#card-why")).to_contain_text("colours answers requests that name no model, in fp32: ")


@in_a_browser
def test_a_panoptic_model_tells_things_apart(browser: Browser, tmp_path: Path) -> None:
    """The pointer names the thing and its score, as ``format=panoptic`` has them."""
    classes = [
        {"id": 0, "name": "red", "color": RED},
        {"id": 1, "name": "green", "color": GREEN},
        {"id": 2, "name": "blue", "color": BLUE, "countable": True},
    ]
    outputs = [{"name": name, "kind": name, "stride": 8} for name in ("scores", "centers", "offsets")]
    write_artifact(tmp_path / "a.onnx", make_manifest(task="panoptic", classes=classes, outputs=outputs), make_panoptic())
    data = encode_image(two_things(), "PNG")
    with live_server(Settings(models_dir=tmp_path)) as url, visit(browser, url) as page:
        choose(page, data, "two.png")
        segments = segmented(url, data, format="panoptic").json()["segments_info"]
        scores = {one["instance"]: one["score"] for one in segments if "instance" in one}
        assert set(scores) == {1, 2}
        frame = page.locator("#frame").bounding_box()
        assert frame is not None
        told = set()
        for x, y in ((28, 36), (92, 36)):
            page.mouse.move(frame["x"] + (x + 0.5) / 128 * frame["width"], frame["y"] + (y + 0.5) / 96 * frame["height"])
            expect(page.locator("#probe b")).to_have_text(re.compile(r"^blue [12], \d+(\.\d)? %$"))
            told.add(page.locator("#probe b").inner_text())
        assert {text.split(",")[0] for text in told} == {"blue 1", "blue 2"}
        for text in told:
            number, share = text.removeprefix("blue ").removesuffix(" %").split(", ")
            assert float(share) / 100 == pytest.approx(scores[int(number)], abs=0.006)


@in_a_browser
@pytest.mark.parametrize(("share", "said"), [(0.34, True), (0.2, False), (None, False)])
def test_an_unsure_network_is_told(browser: Browser, base_url: str, png: bytes, share: float | None, said: bool) -> None:
    """Above a fifth of uncertain pixels, as ``X-Uncertain`` tells it."""

    def changed(route: Route) -> None:
        reply = route.fetch()
        headers = {name: value for name, value in reply.headers.items() if name != "x-uncertain"}
        route.fulfill(response=reply, headers=headers | ({} if share is None else {"x-uncertain": str(share)}))

    with visit(browser, base_url, before=lambda page: page.route("**/segment?format=rle**", changed)) as page:
        choose(page, png)
        expect(page.locator("#caption")).to_contain_text("stripes.png")
        if said:
            expect(page.locator("#note")).to_contain_text("not sure of 34 %")
        else:
            expect(page.locator("#note")).to_be_hidden()
        page.unroute_all(behavior="ignoreErrors")


@in_a_browser
def test_a_file_that_no_browser_shows_is_segmented_all_the_same(browser: Browser, base_url: str) -> None:
    """A TIFF: the mask alone, and a word why. A big one is drawn at the screen's size, not at its own."""
    with visit(browser, base_url) as page:
        choose(page, encode_image(make_image(3000, 4000), "TIFF", compression="tiff_lzw"), "large.tif")
        expect(page.locator("#caption")).to_contain_text("4000 × 3000")
        expect(page.locator("#note")).to_contain_text("cannot show this kind of file")
        height, width, _ = pixels(page, "mask").shape
        assert max(height, width) < 1400


@in_a_browser
def test_an_upload_can_be_cancelled(browser: Browser, base_url: str) -> None:
    """It says how far it is, and Escape ends it."""
    with visit(browser, base_url) as page:
        ready(page)
        wire = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
        wire.send("Network.emulateNetworkConditions", slow)
        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
        page.set_input_files("#file", files=FilePayload(name="n.png", mimeType="image/png", buffer=encode_image(noise)))
        expect(page.locator("#busy-word")).to_contain_text("Sending n.png")
        page.keyboard.press("Escape")
        expect(page.locator("body")).to_have_attribute("data-state", "empty")


# --- a camera ------------------------------------------------------------------------------------------------------------


@in_a_browser
def test_a_camera_is_segmented_frame_by_frame(browser: Browser, base_url: str) -> None:
    """Masks follow the camera, over their own frames; when it stops, the last frame stays as an image like any other."""
    with visit(browser, base_url) as page:
        ready(page)
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#caption")).to_contain_text(re.compile(r"^Camera · \d+ × \d+ · (?!0\.0)[\d.]+ frames/s"))
        expect(page.locator("#total")).to_contain_text("from frame to mask")
        page.get_by_role("button", name="Stop the camera").click()
        expect(page.locator("body")).to_have_attribute("data-state", "result")
        page.locator("#frame").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#spoken")).to_contain_text("%")
        expect(page.locator("#curl")).to_contain_text("image=@'camera.jpg'")


@in_a_browser
def test_a_page_that_may_have_no_camera_says_why(browser: Browser, base_url: str) -> None:
    """Over plain http from another machine there is none, and the button does not pretend."""
    script = "Object.defineProperty(globalThis, 'isSecureContext', { value: false });"
    with visit(browser, base_url, before=lambda page: page.add_init_script(script)) as page:
        expect(page.locator("#camera")).to_be_disabled()
        expect(page.locator("#camera-note")).to_contain_text("https or from localhost")


# --- keys ----------------------------------------------------------------------------------------------------------------


@in_a_browser
def test_a_key_is_asked_for_where_the_service_wants_one(browser: Browser, artifact_dir: Path) -> None:
    """It opens the service, the camera's stream too, and is in no store that outlives the tab, and in no curl line."""
    with (
        live_server(Settings(models_dir=artifact_dir, api_keys=(SecretStr("sésame"),))) as url,
        visit(browser, url, refused=True) as page,
    ):
        expect(page.locator("#key")).to_be_focused()
        expect(page.locator("#problem")).to_be_hidden()
        page.keyboard.type("guess")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_contain_text("wants a key")
        page.locator("#key").fill("sésame")
        page.keyboard.press("Enter")
        ready(page)
        page.click("[data-sample]")
        expect(page.locator("body")).to_have_attribute("data-state", "result")
        expect(page.locator("#curl")).to_contain_text('-H "X-API-Key: $KEY"')
        page.click("#camera")
        expect(page.locator("#caption")).to_contain_text("frames/s")
        assert "sésame" not in json.dumps(page.context.storage_state(), ensure_ascii=False)
        assert "sésame" not in page.url + page.locator("#curl").inner_text()


# --- all people ----------------------------------------------------------------------------------------------------------


@in_a_browser
def test_a_keyboard_is_enough(browser: Browser, base_url: str) -> None:
    """From the top to a segmented sample, a pixel's class, and a class switched off; what is asked is spoken."""
    with visit(browser, base_url) as page:
        ready(page)
        order: list[str] = []
        while len(order) < 12:
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.sample || ''"))
            if order[-1] == "street-1.jpg":
                break
        assert order == ["model", "", "", "theme", "file", "camera", "choose-folder", "street-1.jpg"]
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_have_attribute("data-state", "result")
        for _ in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "frame":
                break
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#spoken")).to_have_text(re.compile(r"^(red|green|blue) \d+(\.\d)? %, x \d+, y \d+$"))
        page.keyboard.press("+")
        expect(page.locator("#zoom")).to_have_text("2×")
        page.keyboard.press("0")
        expect(page.locator("#zoom")).to_have_text("1×")
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("Boolean(document.activeElement.closest('#legend'))"):
                break
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"


@in_a_browser
def test_light_or_dark_as_the_system_says_or_as_chosen(browser: Browser, base_url: str) -> None:
    """The choice outlives a reload; chosen back, the page follows the system again."""
    ground = "getComputedStyle(document.body).backgroundColor"
    with visit(browser, base_url, color_scheme="dark") as page:
        dark = page.evaluate(ground)
        button = page.get_by_role("button", name="Dark colours", pressed=True)
        button.click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Dark colours", pressed=False).click()
        assert page.evaluate(ground) == dark
        page.emulate_media(color_scheme="light")
        assert page.evaluate(ground) == light


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_out(browser: Browser, base_url: str, png: bytes, scheme: str) -> None:
    """No finding of axe's, at rest, with a result, with an error and in the documentation; contrast is among its rules."""
    axe = Axe()

    def findings(page: Page) -> list[str]:
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]

    with visit(browser, base_url, refused=True, color_scheme=scheme, reduced_motion="reduce") as page:
        assert findings(ready(page)) == []
        page.locator("#card summary").click()
        assert findings(page) == []
        choose(page, png)
        page.get_by_role("button", name="blue").click()
        page.locator("#frame").focus()
        page.keyboard.press("ArrowRight")
        assert findings(page) == []
        choose(page, b"Dear diary", "notes.txt")
        assert findings(page) == []
        page.goto(f"{base_url}/docs")
        page.locator("details").first.wait_for()
        assert findings(page) == []


@in_a_browser
def test_a_phone_never_scrolls_sideways(browser: Browser, base_url: str, png: bytes) -> None:
    """Whatever is on it; and what is tapped is large enough for a finger."""
    wide = "document.documentElement.scrollWidth > innerWidth"
    with visit(browser, base_url, refused=True, viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=3) as page:
        ready(page)
        assert not page.evaluate(wide)
        page.locator("#card summary").tap()
        assert not page.evaluate(wide)
        choose(page, png, "a-name-that-is-much-longer-than-any-telephone-is-wide-in-this-world.png")
        assert not page.evaluate(wide)
        page.locator("#frame").tap()
        expect(page.locator("#probe")).to_contain_text("green")
        frame = page.locator("#frame").bounding_box()
        assert frame is not None
        for share in (0.01, 0.52, 0.99):  # wherever a finger is, what it points at is told inside the picture
            page.touchscreen.tap(frame["x"] + share * frame["width"], frame["y"] + 0.5 * frame["height"])
            expect(page.locator("#probe span")).to_have_text(re.compile(rf"^{int(128 * share)}, "))
            told = page.locator("#probe").bounding_box()
            assert told is not None
            assert frame["x"] - 1 <= told["x"]
            assert told["x"] + told["width"] <= frame["x"] + frame["width"] + 1
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, select, summary, nav a, #drop, #options label, .choices label")]
                .map((element) => [element.id || element.textContent.trim(), element.getBoundingClientRect()])
                .filter(([, { width, height }]) => width && (height < 43.5 || width < 43.5))
                .map(([name]) => name)"""
        )
        assert small == []
        view = page.locator("#view")
        for target, stays in (("#legend li:last-child", True), ("#curl", False), ("#legend li:last-child", True)):
            page.locator(target).evaluate("(element) => element.scrollIntoView({ block: 'end' })")
            expect(view).to_be_in_viewport() if stays else expect(view).not_to_be_in_viewport()
        choose(page, b"Dear diary", "notes.txt")
        assert not page.evaluate(wide)
        page.goto(f"{base_url}/docs")
        page.locator("details").first.wait_for()
        assert not page.evaluate(wide)


@in_a_browser
def test_the_page_works_wherever_it_is_mounted(browser: Browser, base_url: str) -> None:
    """Behind a proxy, under a path: every address that it asks for lies under that path."""
    asked: list[str] = []

    def under_a_path(route: Route) -> None:
        asked.append(urlsplit(route.request.url).path)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/deep/er/", "/")))

    # A tab's icon is fetched past the route, and refused.
    with visit(browser, f"{base_url}/deep/er/", refused=True, before=lambda page: page.route("**/*", under_a_path)) as page:
        ready(page)
        page.click("[data-sample]")
        expect(page.locator("#curl")).to_contain_text("/deep/er/segment?")
        page.get_by_role("link", name="API").click()
        page.locator("details").first.wait_for()
        page.unroute_all(behavior="ignoreErrors")
    assert "/deep/er/models" in asked
    assert [path for path in asked if not path.startswith("/deep/er/")] == []


@in_a_browser
def test_a_real_browser_shows_every_call_of_the_documentation(browser: Browser, base_url: str) -> None:
    """``/docs`` needs no internet, and leaves out nothing."""
    with visit(browser, f"{base_url}/docs") as page:
        page.locator("details").first.wait_for()
        shown = page.locator("summary code").all_inner_texts()
        for path, calls in httpx.get(f"{base_url}/openapi.json").json()["paths"].items():
            assert {f"{method.upper()} {path}" for method in calls} <= set(shown)
        expect(page.locator("#calls")).to_contain_text("min_confidence")
