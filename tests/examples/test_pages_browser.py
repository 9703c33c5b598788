"""The pages of the small examples, in Chromium: their few lines of JavaScript do what they are shown for."""

import os

import pytest

if os.environ.get("GEVENTWS_REQUIRE_ALL") != "1":
    pytest.importorskip("selenium", reason="Selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.endtoend


@pytest.fixture
def page(start, browser):
    """Starts an example and opens its page; what it gives waits until elements have certain texts."""

    def page(path, *options):
        browser.switch_to.new_window("tab")
        browser.get(start(path, *options).http)
        return until_texts

    def until_texts(selector, fits):
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        WebDriverWait(browser, 20, 0.05).until(lambda _: fits(browser.execute_script(script, selector)), selector)

    return page


def test_flask_echo(page, browser):
    until_texts = page("examples/echo_flask.py")
    WebDriverWait(browser, 20, 0.05).until(lambda _: browser.find_element(By.TAG_NAME, "button").is_enabled())
    browser.find_element(By.TAG_NAME, "input").send_keys("<b>one</b>", Keys.ENTER, "two", Keys.ENTER)
    until_texts("li", lambda texts: texts == ["two", "<b>one</b>"])


def test_ticker(page, browser):
    def tick(texts):
        return int(texts[0].split()[1]) if texts[0].startswith("tick ") else 0

    # Slow enough that a page that is looked at now and then is seen between the click and the tenth tick.
    until_texts = page("examples/script.py", "--interval", "0.3")
    until_texts("output", lambda texts: tick(texts) >= 10)
    browser.find_element(By.TAG_NAME, "button").click()
    until_texts("output", lambda texts: 0 < tick(texts) < 10)


def test_resource_chat(page, browser):
    until_texts = page("examples/resource.py")
    browser.find_element(By.NAME, "nickname").send_keys("Ada", Keys.TAB)
    until_texts("li", lambda texts: texts == ["Server: Ada is here."])
    browser.find_element(By.NAME, "text").send_keys("Hello!", Keys.ENTER)
    until_texts("li", lambda texts: texts == ["Ada: Hello!", "Server: Ada is here."])


@pytest.mark.parametrize(
    ("user", "password", "admin"),
    [("ada", "lovelace", "Known users: ada, guest"), ("guest", "guest", "The server refused the handshake.")],
)
def test_login(page, browser, user, password, admin):
    until_texts = page("examples/login.py")
    browser.find_element(By.NAME, "user").send_keys(user)
    browser.find_element(By.NAME, "password").send_keys(password, Keys.ENTER)
    until_texts("#visits", lambda texts: texts == [f"{user} has been here 1 times (subprotocol visits.v1)"])
    until_texts("#admin", lambda texts: texts == [admin])
    browser.refresh()
    until_texts("#visits", lambda texts: texts == [f"{user} has been here 2 times (subprotocol visits.v1)"])
    browser.find_element(By.TAG_NAME, "button").click()
    until_texts("h1", lambda texts: texts == ["Please log in"])
