"""The explorer as a reader meets it: `dumenet explore`, a real server, a real browser without a screen."""

import http.client
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APP = "build/explorer.ipynb"
FIRST, STEP = 600, 60  # seconds: until the app has trained and stands there; for each step after it

pytest.importorskip("voila", reason="an extra: pip install -e '.[notebooks]'")
pytestmark = pytest.mark.xdist_group("browser")  # one server for all


def until(what, seconds, condition):
    """The first true value of `condition()`; it may find nothing yet, or an element that was just replaced."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (WebDriverException, IndexError):
            pass
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s for {what}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Both addresses of a running `dumenet explore`; it is stopped whatever happens."""
    private = tmp_path_factory.mktemp("jupyter")  # no settings, no workspaces of whoever runs this
    env = os.environ | {f"JUPYTER_{k}_DIR": str(private / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(private / "w"), "JUPYTERLAB_SETTINGS_DIR": str(private / "s")}
    env.pop("JUPYTER_TOKEN", None)
    log = private / "log"
    with open(log, "wb") as out:
        command = [sys.executable, "-m", "dumenet.cli", "explore", "--no-browser"]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        found = until("the addresses", STEP, lambda: re.findall(r"http://127\.0\.0\.1:\S+", log.read_text()))
        app, lab = found[:2]
        base = app.split("/voila")[0]
        until(f"the server: {log.read_text()}", STEP, lambda: process.poll() is None and status(f"{base}/api") == 200)
        yield app, lab
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def status(address):
    """HTTP status of a GET, without following it to a login page; 0 where nobody answers."""
    where = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(where.netloc, timeout=30)
    try:
        connection.request("GET", f"{where.path}?{where.query}")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def css(browser, selector):
    return browser.find_elements("css selector", selector)


def words(browser):
    """The status line, read in one go: the next one may replace it at any time."""
    return browser.execute_script("const e = document.querySelector('.dumenet-status'); return e ? e.innerText : ''")


def sources(browser):
    """Addresses of the pictures shown: the browser makes a new one for every new picture."""
    script = "return [...document.querySelectorAll('.dumenet-picture img')].filter(e => e.offsetParent).map(e => e.src)"
    return browser.execute_script(script)


def control(browser, label):
    """The widget with this label."""
    return browser.find_element("xpath", f"//div[contains(@class, 'dumenet-explorer')]//label[text()='{label}']/..")


def test_the_app_in_a_browser(server, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    browser.get(server[0])
    failed = "There was an error when executing cell"
    drawn = lambda: css(browser, ".dumenet-picture img") and words(browser)  # noqa: E731
    until("the explorer", FIRST, lambda: failed in browser.page_source or drawn())
    assert failed not in browser.page_source
    width = lambda e: browser.execute_script("return arguments[0].naturalWidth", e)  # noqa: E731
    pictures = lambda: [e for e in css(browser, ".dumenet-picture img") if e.is_displayed()]  # noqa: E731
    until("its pictures", STEP, lambda: all(map(width, pictures())))
    assert "Heatmap explorer" in browser.page_source and "run_all(" not in browser.page_source, "words, no code"
    assert control(browser, "image").location["y"] < 250, "the controls stand at the top"
    assert "a normal image" not in words(browser) and "IoU 0.0" not in words(browser), (
        "it opens on a defect that is marked"
    )
    (ROOT / "build").mkdir(exist_ok=True)
    assert browser.save_screenshot(str(ROOT / "build" / "explorer.png"))

    def shown():
        """Pictures and words, once they have stood still for a second."""
        now, since = None, time.monotonic()
        while time.monotonic() - since < 1:
            before, now = now, (sources(browser), words(browser))
            if now != before:
                since = time.monotonic()
            time.sleep(0.1)
        return now

    def changes(what, act):
        """Act, and wait until the pictures and the words are others."""
        before = shown()
        act()
        until(what, STEP, lambda: all(a != b for a, b in zip(before, (sources(browser), words(browser)))))

    def press(label, key, times=1):
        handle = control(browser, label).find_element("css selector", ".noUi-handle")
        handle.send_keys(*[key] * times)

    def choose(label, index):
        Select(control(browser, label).find_element("tag name", "select")).select_by_index(index)

    changes("the threshold", lambda: press("threshold", Keys.ARROW_LEFT, 8))
    changes("another image", lambda: choose("image", 3))
    changes("a second model", lambda: choose("beside it", 3))
    until("three maps", STEP, lambda: len([e for e in css(browser, ".dumenet-ring") if e.is_displayed()]) == 3)

    def heat():
        """The first model's map; looked for anew, since a second model moves all pictures to new places."""
        return css(browser, ".dumenet-picture img[alt^='Anomaly map']")[0]

    def click():
        quarter = heat().size["width"] // 4
        ActionChains(browser).move_to_element_with_offset(heat(), quarter, -quarter).click().perform()

    changes("a click", click)
    until("the place clicked", STEP, lambda: "At row 3, column 10 " in words(browser))
    changes("an arrow key", lambda: heat().send_keys(Keys.ARROW_DOWN))
    until("the place below it", STEP, lambda: "At row 4, column 10 " in words(browser))
    until("its text alternative", STEP, lambda: "At row 4, column 10 " in heat().get_attribute("alt"))
    changes("the other error", lambda: control(browser, "error").find_elements("tag name", "button")[1].click())
    until("its name", STEP, lambda: "error as an L2 norm" in words(browser))


def test_jupyterlab_opens_the_notebook(server, browser):
    browser.get(server[1])
    until("the notebook", 2 * STEP, lambda: "12 · Explorer" in css(browser, ".jp-Notebook")[0].text)
    until("its code", STEP, lambda: css(browser, ".jp-CodeCell"))


def test_strangers_and_other_folders_get_nothing(server, tmp_path):
    app, lab = server
    base, token = app.split("/voila")[0], app.split("token=")[1]
    assert len(token) > 20 and base.startswith("http://127.0.0.1:")
    assert status(f"{base}/api/contents/README.md?token={token}") == 200
    for path in ("api/contents/README.md", "files/README.md", "api/kernels", "lab", f"voila/render/{APP}"):
        assert status(f"{base}/{path}") in (302, 403), path
    secret = tmp_path / "outside.txt"
    secret.write_text("nobody may read this")
    coded = str(secret).strip("/").replace("/", "%2f")
    for room in ("files", "api/contents", "voila/render", "voila/files"):
        try:
            address = f"{base}/{room}/{'..%2f' * 12}{coded}?token={token}"
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert b"nobody may" not in answer.read(), room
        except urllib.error.HTTPError:
            pass
