"""The chat as people see it: in Chromium, driven by Selenium. Waits for what a page shows, never for time to pass."""

import os
import signal

import pytest

if os.environ.get("GEVENTWS_REQUIRE_ALL") != "1":
    pytest.importorskip("selenium", reason="Selenium is not installed")

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.endtoend

CHAT = "examples/chat/chat.py"
PATIENCE = 25  # seconds until a page has to show what is awaited; the longest pause between two reconnects is 15

# Every colour that the browser can name becomes red, green, blue here, because a canvas has nothing else.
CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const paint = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (rgb) => rgb.map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const element = arguments[0];
const behind = [];
for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
const [light, dark] = [paint(behind), paint([...behind, getComputedStyle(element).color])]
  .map(luminance).sort((a, b) => b - a);
return (light + 0.05) / (dark + 0.05);
"""


@pytest.fixture
def chat(start):
    return start(CHAT)


class Window:
    """One window of the browser, looking at the chat."""

    def __init__(self, browser, address, *, width=1280, height=800, phone=False, dark=False):
        self.browser = browser
        browser.switch_to.new_window("window")
        self.handle = browser.current_window_handle
        self.resize(width, height, phone)
        self.prefer("dark" if dark else "light")
        browser.get(address)

    def resize(self, width, height, phone=False):
        """As many CSS pixels as that: on a phone two to each, and touched by fingers."""
        self.look()
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
        )
        self.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def prefer(self, theme):
        """What the system says about light and dark."""
        self.look()
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def look(self):
        self.browser.switch_to.window(self.handle)

    def find(self, selector):
        self.look()
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())", selector
        )

    def run(self, script, *arguments):
        self.look()
        return self.browser.execute_script(script, *arguments)

    def until(self, condition, what):
        wait = WebDriverWait(self.browser, PATIENCE, 0.05, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def until_texts(self, selector, wanted):
        """Wait until the elements have these texts, and show the last ones if they do not come."""
        try:
            self.until(lambda: self.texts(selector) == wanted, "")
        except Exception:
            assert self.texts(selector) == wanted
            raise

    def join(self, name):
        field = self.until(lambda: self.find("#name"), "the field for the name")
        self.until(field.is_displayed, "the dialogue for the name")
        field.clear()
        field.send_keys(name, Keys.ENTER)
        self.until_joined(name)

    def until_joined(self, name):
        self.until_texts("#people .me .person", [name])
        self.until(lambda: self.state() == "open", "the connection")

    def state(self):
        return self.find("#status").get_attribute("data-state")

    def say(self, text):
        self.until(lambda: self.find("#text").is_displayed(), "the line to type in")
        self.find("#text").send_keys(text, Keys.ENTER)

    def picture(self, folder, name):
        """Take a picture when everything stands still."""
        self.run("return Promise.all(document.getAnimations().filter((a) => a.effect.getTiming().iterations === 1)"
                 ".map((a) => a.finished))")  # fmt: skip
        assert self.browser.save_screenshot(str(folder / f"{name}.png"))

    def overflow(self):
        """How many pixels the page is wider than its window."""
        return self.run("return document.scrollingElement.scrollWidth - document.documentElement.clientWidth")

    def complaints(self):
        """What the page wrote as errors to the console, other than that a server did not answer."""
        self.look()
        entries = [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]
        return [entry for entry in entries if "WebSocket connection to" not in entry]


@pytest.fixture
def open_window(browser):
    """Opens windows, and looks afterwards for errors on their consoles."""
    windows = []

    def open_window(address, **options):
        windows.append(Window(browser, address, **options))
        return windows[-1]

    yield open_window
    for window in windows:
        assert window.complaints() == []


def test_two_windows_chat_in_one_room(chat, open_window, screenshots):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.picture(screenshots, "name")
    ada.join("Ada")
    assert ada.texts("#count") == ["Only you so far"]
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.until_texts("#count", ["2 people"])

    ada.say("Good morning!")
    grace.until_texts(".message .what", ["Good morning!"])
    assert grace.texts(".message .who") == ["Ada"]
    grace.say("Good morning, Ada.")
    ada.until_texts(".message .what", ["Good morning!", "Good morning, Ada."])
    assert ada.texts(".message.own .what") == ["Good morning!"]
    assert ada.find("#text").get_attribute("value") == ""
    assert ada.find(".message time").get_attribute("datetime")


def test_the_list_of_people_follows_who_comes_and_goes(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.until_texts("#people .person", ["Ada", "Grace"])
    grace.until_texts("#people .person", ["Grace", "Ada"])
    ada.until_texts(".notice-text", ["Grace joined"])

    grace.run("location.href = '/'")
    ada.until_texts("#people .person", ["Ada"])
    ada.until_texts(".notice-text", ["Grace left"])


def test_another_room_hears_nothing(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/garden")
    grace.join("Grace")
    ada.say("Is anybody here?")
    ada.until_texts(".message .what", ["Is anybody here?"])
    grace.say("Only me.")
    grace.until_texts(".message .what", ["Only me."])
    assert ada.texts("#people .person") == ["Ada"]


def test_a_reload_brings_back_the_name_and_what_was_said(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    ada.say("First")
    ada.say("Second")
    ada.until_texts(".message .what", ["First", "Second"])
    ada.browser.refresh()
    ada.until_joined("Ada")
    ada.until_texts(".message.own .what", ["First", "Second"])


def test_who_reloads_is_back_in_one_line(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.until_texts(".notice-text", ["Grace joined"])
    ada.say("Do reload, please.")
    grace.until_texts(".message .what", ["Do reload, please."])
    grace.browser.refresh()
    grace.until_joined("Grace")
    ada.until_texts(".notice-text", ["Grace joined", "Grace is back"])


def test_pages_come_back_by_themselves_after_a_restart_of_the_server(chat, start, open_window, screenshots):
    ada = open_window(f"{chat.http}/room/garden")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/garden")
    grace.join("Grace")
    grace.say("Before")
    ada.until_texts(".message .what", ["Before"])

    chat.end()
    for window in (ada, grace):
        window.until(lambda window=window: window.state() != "open", "the loss of the connection")
    ada.until(ada.find("#banner").is_displayed, "the notice about it")
    ada.say("Meanwhile")
    ada.until_texts("#problem", ["Not connected just now. Your text stays here."])
    ada.picture(screenshots, "disconnected")

    start(CHAT, port=chat.port)
    ada.until_joined("Ada")
    grace.until_joined("Grace")
    ada.until(lambda: not ada.find("#banner").is_displayed(), "the end of the notice")
    ada.until_texts("#count", ["2 people"])
    ada.find("#text").send_keys(Keys.ENTER)
    grace.until_texts(".message .what", ["Before", "Meanwhile"])


def test_what_was_sent_into_a_dead_connection_comes_back_to_be_sent_again(chat, start, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    chat.process.send_signal(signal.SIGSTOP)  # it hears nothing any more, and the page cannot know
    ada.say("Do you hear me?")
    assert ada.find("#text").get_property("value") == ""
    chat.kill()
    start(CHAT, port=chat.port)
    ada.until_joined("Ada")
    ada.until(lambda: ada.find("#text").get_property("value") == "Do you hear me?", "the text")
    assert ada.texts("#problem") == ["The connection broke before this was sent."]


def test_the_back_button_leads_back_into_the_room(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    ada.find(".bar a").click()
    ada.until_texts(".room-people", ["empty", "empty", "empty"])
    ada.browser.back()
    ada.until_joined("Ada")
    ada.say("Here again")
    ada.until_texts(".message .what", ["Here again"])


def test_a_name_can_be_typed_at_once(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.until(ada.find("#name").is_displayed, "the dialogue for the name")
    ada.browser.switch_to.active_element.send_keys("Ada", Keys.ENTER)
    ada.until_joined("Ada")
    ada.browser.switch_to.active_element.send_keys("And a message", Keys.ENTER)
    ada.until_texts(".message .what", ["And a message"])


def test_the_button_tries_again_at_once(chat, start, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    chat.end()
    ada.until(ada.find("#retry").is_displayed, "the button")
    start(CHAT, port=chat.port)
    ada.run("document.getElementById('retry').click()")  # it goes away by itself when the page is faster
    ada.until_joined("Ada")


def test_what_looks_like_html_is_shown_as_it_is(chat, open_window):
    text = "<b>bold</b> & <img src=x onerror='document.title=1'><script>document.title=2</script>"
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("<i>Ada</i>")
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.say(text)
    grace.until_texts(".message .what", [text])
    assert grace.texts(".message .who") == ["<i>Ada</i>"]
    assert grace.texts("#people .person") == ["Grace", "<i>Ada</i>"]
    for window in (ada, grace):
        assert window.run("return document.querySelectorAll('.log :is(b, i, img, script), #people i').length") == 0
        assert window.run("return document.title") == "#lobby · Chat"


def test_a_name_that_is_taken_is_refused_in_the_dialogue(chat, open_window):
    open_window(f"{chat.http}/room/lobby").join("Ada")
    other = open_window(f"{chat.http}/room/lobby")
    other.until(other.find("#name").is_displayed, "the dialogue for the name")
    other.find("#name").clear()
    other.find("#name").send_keys("ADA", Keys.ENTER)
    other.until_texts("#name-problem", ["Somebody here is called Ada already."])
    other.join("Another Ada")


def test_a_name_can_be_changed(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.find("#rename").click()
    ada.join("Augusta")
    grace.until_texts("#people .person", ["Grace", "Augusta"])
    ada.until(lambda: not ada.find("#name-dialog").is_displayed(), "the end of the dialogue")


def test_who_may_not_have_the_new_name_keeps_the_old_one(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    grace = open_window(f"{chat.http}/room/lobby")
    grace.join("Grace")
    ada.find("#rename").click()
    ada.find("#name").clear()
    ada.find("#name").send_keys("Grace", Keys.ENTER)
    ada.until_texts("#name-problem", ["Somebody here is called Grace already."])
    ada.find("#cancel").click()
    ada.until_texts("#people .person", ["Ada", "Grace"])
    grace.until_texts("#people .person", ["Grace", "Ada"])
    ada.say("Still me.")
    grace.until_texts(".message .who", ["Ada"])


def test_the_escape_key_is_no_way_around_the_name(chat, open_window):
    window = open_window(f"{chat.http}/room/lobby")
    for _ in range(3):
        window.until(window.find("#name").is_displayed, "the dialogue for the name")
        window.find("#name").send_keys(Keys.ESCAPE)
    window.join("Ada")
    window.find("#rename").click()
    window.find("#name").send_keys(Keys.ESCAPE)
    window.until(lambda: not window.find("#name-dialog").is_displayed(), "the end of the dialogue")
    assert window.texts("#people .person") == ["Ada"]


def test_a_copy_of_the_window_takes_over_and_the_first_one_does_not_fight(chat, open_window):
    first = open_window(f"{chat.http}/room/lobby")
    first.join("Ada")
    tab = first.run("return sessionStorage.getItem('tab')")
    second = open_window(f"{chat.http}/")
    second.run("sessionStorage.setItem('tab', arguments[0]); sessionStorage.setItem('name', 'Ada')", tab)
    second.run("location.href = '/room/lobby'")
    second.until_joined("Ada")
    first.until(lambda: first.state() == "closed", "the end of the first one")
    assert first.texts("#banner-text") == ["You have come back in another window."]
    first.find("#retry").click()
    first.until_joined("Ada")
    second.until(lambda: second.state() == "closed", "the end of the second one")


def test_a_text_has_its_line_breaks_and_the_enter_key_sends_it(chat, open_window):
    ada = open_window(f"{chat.http}/room/lobby")
    ada.join("Ada")
    ada.find("#text").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    ada.find("#send").click()
    ada.until_texts(".message .what", ["one\ntwo"])


def test_the_lobby_shows_live_who_is_where_and_opens_rooms(chat, open_window, screenshots):
    lobby = open_window(f"{chat.http}/")
    lobby.until(lambda: lobby.state() == "open", "the connection")
    lobby.until_texts(".room-name", ["lobby", "help", "random"])
    visitor = open_window(f"{chat.http}/")
    visitor.find("#room-name").send_keys("Garden Party!", Keys.ENTER)
    visitor.join("Ada")
    assert visitor.run("return location.pathname") == "/room/garden-party"
    lobby.until_texts(".room-name", ["garden-party", "lobby", "help", "random"])
    assert lobby.texts(".room-people") == ["1 here", "empty", "empty", "empty"]
    lobby.picture(screenshots, "lobby-light")
    lobby.prefer("dark")
    lobby.picture(screenshots, "lobby-dark")
    lobby.find("#rooms a").click()
    lobby.join("Grace")
    visitor.until_texts("#people .person", ["Ada", "Grace"])


def test_dark_follows_the_system_and_the_button_is_remembered(chat, open_window):
    window = open_window(f"{chat.http}/room/lobby", dark=True)
    window.join("Ada")
    surface = "return getComputedStyle(document.querySelector('.app')).backgroundColor"
    dark = window.run(surface)
    assert window.find("#theme").get_attribute("aria-pressed") == "true"
    window.prefer("light")
    light = window.run(surface)
    assert light != dark
    window.find("#theme").click()
    assert window.run(surface) == dark
    window.browser.refresh()
    window.until_joined("Ada")
    assert window.run(surface) == dark
    window.find("#theme").click()
    assert window.run(surface) == light


LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3
TALK = (
    ("Grace", "Good morning! Has anybody tried the new build?"),
    ("Linus", "Yes, it has been up since Tuesday."),
    ("Linus", "Nothing to complain about so far, and I did try."),
    ("Ada", "Lovely. Then let us show it to people."),
    ("Grace", "One moment: what happens when the server restarts?\nDo they have to reload the page?"),
    (
        "Ada",
        "They see it for a second, and then they are back in their room, with their name and what they were typing.",
    ),
    ("Linus", "Bravo!"),
)


@pytest.fixture
def party(chat, open_window):
    """Three people in a room, and something to look at. Ada's window is the one given."""

    def party(**options):
        windows = {}
        for name in ("Grace", "Ada", "Linus"):
            windows[name] = open_window(f"{chat.http}/room/garden", **(options if name == "Ada" else {}))
            windows[name].join(name)
        for number, (name, text) in enumerate(TALK, start=1):
            windows[name].run("document.getElementById('text').value = arguments[0]", text)  # pasted, so to say
            windows[name].find("#text").send_keys(Keys.ENTER)
            windows["Ada"].until(lambda n=number: len(windows["Ada"].texts(".message")) == n, "the message")
        return windows

    return party


def test_desktop_in_light_and_dark(party, screenshots):
    ada = party()["Ada"]
    assert ada.overflow() == 0
    ada.picture(screenshots, "desktop-light")
    ada.prefer("dark")
    ada.picture(screenshots, "desktop-dark")


def test_a_phone_has_no_sideways_scrolling_and_everything_in_reach(party, screenshots):
    windows = party(width=390, height=844, phone=True)
    ada = windows["Ada"]
    ada.picture(screenshots, "phone-light")
    ada.prefer("dark")
    ada.picture(screenshots, "phone-dark")
    ada.prefer("light")

    windows["Grace"].say(LONG)
    ada.until(lambda: ada.texts(".message .what")[-1] == LONG, "the long word")
    assert ada.overflow() == 0
    ada.resize(320, 568, phone=True)
    assert ada.overflow() == 0
    ada.picture(screenshots, "phone-small")
    for selector in ("#send", "#theme", "#people-toggle", ".bar a", "#text"):
        box = ada.find(selector).rect
        assert min(box["width"], box["height"]) >= 44, f"{selector} is too small for a finger"
        assert 0 <= box["x"] <= 320 - box["width"], f"{selector} is out of sight"
        assert 0 <= box["y"] <= 568 - box["height"], f"{selector} is out of sight"

    ada.find("#people-toggle").click()
    ada.until(ada.find("#rename").is_displayed, "the list of people")
    assert ada.texts("#people .person") == ["Ada", "Grace", "Linus"]
    ada.picture(screenshots, "phone-people")
    ada.find("#people-close").click()
    ada.until(lambda: not ada.find("#rename").is_displayed(), "the end of the list")


def test_the_keyboard_of_a_phone_leaves_the_line_to_type_in_and_the_last_message_in_sight(party, screenshots):
    ada = party(width=390, height=844, phone=True)["Ada"]
    ada.resize(390, 430, phone=True)
    last = "const log = arguments[0]; return log.scrollHeight - log.scrollTop - log.clientHeight"
    ada.until(lambda: ada.run(last, ada.find("#log")) < 2, "the end of the log")
    box = ada.find("#text").rect
    assert box["y"] + box["height"] <= 430
    ada.picture(screenshots, "phone-keyboard")


def test_the_lobby_on_a_phone(chat, open_window, screenshots):
    lobby = open_window(f"{chat.http}/", width=390, height=844, phone=True)
    lobby.until(lambda: lobby.state() == "open", "the connection")
    assert lobby.overflow() == 0
    lobby.picture(screenshots, "phone-lobby")


def test_who_reads_further_up_is_told_of_new_messages(party, screenshots):
    windows = party(width=390, height=430, phone=True)
    ada = windows["Ada"]
    ada.run("document.getElementById('log').scrollTop = 0")
    ada.until(lambda: ada.run("return document.getElementById('log').scrollTop") == 0, "the beginning")
    # The page learns of scrolling with the next frame.
    ada.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    windows["Grace"].say("Are you still there?")
    ada.until(ada.find("#newer").is_displayed, "the button")
    ada.picture(screenshots, "phone-newer")
    ada.find("#newer").click()
    ada.until(lambda: not ada.find("#newer").is_displayed(), "the end")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_can_be_read_and_has_a_name(party, theme):
    ada = party()["Ada"]
    ada.prefer(theme)
    seen = (".bar h1", "#count", "#status", ".day", ".notice-text", ".message:not(.own) .who", ".message:not(.own) .what",
            ".message:not(.own) .when", ".own .what", ".own .when", ".person", ".me", "#rename", ".avatar")  # fmt: skip
    faint = {selector: round(ada.run(CONTRAST, ada.find(selector)), 2) for selector in seen}
    assert {selector: contrast for selector, contrast in faint.items() if contrast < 4.5} == {}
    for control in ada.browser.find_elements(By.CSS_SELECTOR, "a, button, input, textarea, [role=log]"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    assert ada.find("#log").get_attribute("role") == "log"  # a live region: what is added is read aloud
    assert ada.find("#status").get_attribute("role") == "status"
