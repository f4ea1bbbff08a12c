"""A browser without a screen."""

import shutil

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ANSWER = 600  # seconds: Voila answers when the lesson has run


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium of 1280 x 1500 pixels."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="an extra: pip install -e '.[test]'")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
        "--window-size=1280,1500", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(ANSWER)
    driver.command_executor.client_config.timeout = ANSWER
    driver.implicitly_wait(0)
    try:
        yield driver
    finally:
        driver.quit()
