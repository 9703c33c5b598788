"""docs/django.md: what it shows makes a project, whose checks find nothing and whose tests pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running import Project

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "django.md"

URLS = """
from sample.views import Upload, api, clock, groups, users

urlpatterns += [
    path("users/", users),
    path("upload/", Upload.as_view()),
    path("api/", api),
    path("clock/", clock),
    path("groups/", groups),
]
"""
# What the documentation says in words.
TESTS = """
from django.contrib.auth.models import Permission
from django.test import Client


class Said(WebSocketTestCase):
    def test_permissions(self):
        user = User.objects.create_user("ada")
        self.client.force_login(user)
        with self.assertRaises(Refused) as caught:
            self.client.websocket("/users/")
        self.assertEqual(caught.exception.status_code, 403)
        user.user_permissions.add(Permission.objects.get(codename="view_user"))
        with self.client.websocket("/users/") as ws:
            self.assertEqual(ws.receive(), "You may.")

    def test_classes(self):
        with self.assertRaises(Refused) as caught:
            self.client.websocket("/upload/")
        self.assertEqual(caught.exception.status_code, 302)
        self.client.force_login(User.objects.create_user("ada"))
        with self.client.websocket("/upload/") as ws:
            ws.send(b"x" * 2**20 * 2)
            self.assertEqual(ws.receive(), str(2**21))

    def test_a_view_that_accepts(self):
        with self.assertRaises(Refused):
            self.client.websocket("/api/")
        with self.client.websocket("/api/", {"key": "secret"}, subprotocols=["graphql-ws"]) as ws:
            self.assertEqual((ws.subprotocol, ws.receive()), ("graphql-ws", "Welcome."))

    def test_both_kinds(self):
        self.assertContains(self.client.get("/clock/"), "new WebSocket")
        with self.client.websocket("/clock/") as ws:
            self.assertRegex(ws.receive(), r"[0-9:]{8}")

    def test_plain_requests(self):
        self.assertEqual(self.client.get("/api/").status_code, 426)

    def test_options(self):
        self.client.force_login(User.objects.create_user("ada"))
        with self.client.websocket("/ws/5/") as ws:
            ws.receive()
            ws.send("x" * 2**17)
            self.assertIsNone(ws.receive())
            self.assertEqual(ws.close_code, 1009)
"""


@pytest.fixture
def documented(project: Project) -> Project:
    sample = project.directory / "sample"
    (sample / "urls.py").write_text("")
    (sample / "views.py").write_text("")
    (sample / "tests.py").write_text("")
    settings = (sample / "settings.py").read_text()
    settings = settings.replace('    "geventws.django.WebSocketMiddleware",\n', "").replace(
        '    "geventws.django",\n', ""
    )
    settings = settings.replace('LOGIN_URL = "/login/"\n', "")
    (sample / "settings.py").write_text(settings)
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == {"settings.py", "views.py", "urls.py", "tests.py"}
    for name, code in [*blocks, ("urls.py", URLS), ("tests.py", TESTS)]:
        with (sample / name).open("a") as file:
            file.write("\n" + code)
    return project


def test_what_the_documentation_shows_runs(documented: Project) -> None:
    assert documented.manage("check").end()[0] == 0
    status, output = documented.manage("test", "--noinput").end()
    assert status == 0, output
    assert "Ran 9 tests" in output


def test_every_block_of_python_is_run() -> None:
    text = DOCUMENTATION.read_text()
    assert text.count("```python\n") == len(re.findall(r"```python\n# \w+\.py\n", text))
