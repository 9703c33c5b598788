"""How a project tests its WebSockets; run by `manage.py test`."""

# ruff: noqa: PT009, PT027, SIM117 (as tests of Django projects are written)

from __future__ import annotations

from urllib.request import urlopen

from django.contrib.auth import get_user_model
from django.test import SimpleTestCase
from django.urls import reverse

from geventws.client import connect
from geventws.django.test import (
    Refused,
    WebSocketLiveServerTestCase,
    WebSocketStaticLiveServerTestCase,
    WebSocketTestCase,
    WebSocketTestMixin,
    WebSocketTransactionTestCase,
)
from sample.models import Saying


class RoomTests(WebSocketTestCase):
    """In the test's transaction."""

    def test_strangers_are_sent_to_the_login(self):
        with self.assertRaises(Refused) as caught:
            self.client.websocket("/ws/members/")
        self.assertRedirects(caught.exception.response, "/login/?next=/ws/members/", fetch_redirect_response=False)

    def test_members_are_greeted(self):
        self.client.force_login(get_user_model().objects.create_user("ada"))
        with self.client.websocket("/ws/members/") as ws:
            self.assertEqual(ws.receive(), "Hello ada.")

    def test_the_view_sees_what_the_test_has_written_and_the_other_way_round(self):
        Saying.objects.create(room=5, text="before")
        with self.client.websocket("/ws/sayings/5/") as ws:
            ws.send("hello")
            self.assertEqual(ws.receive(timeout=5), "2")
            self.assertEqual(Saying.objects.get(text="hello").room, 5)
        self.assertEqual(Saying.objects.count(), 2)

    def test_a_path_by_its_name(self):
        with self.client.websocket(reverse("room", args=[7])) as ws:
            self.assertEqual(ws.receive(), "This is room 7.")

    def test_an_exception_of_the_view_is_the_test_s(self):
        with self.assertRaisesMessage(ValueError, "on purpose"), self.client.websocket("/ws/fails/value/") as ws:
            ws.send("go on")
            ws.receive()


class SimpleTests(WebSocketTestMixin, SimpleTestCase):
    """Without a database, which is forbidden to the view as to the test."""

    def test_a_view_without_a_database(self):
        with self.client.websocket("/ws/5/") as ws:
            self.assertEqual(ws.receive(), "This is room 5.")

    def test_a_view_with_one(self):
        with self.assertRaisesMessage(AssertionError, "not allowed in SimpleTestCase"):
            with self.client.websocket("/ws/keeps/") as ws:
                ws.send("hello")
                ws.receive()


class CommittingTests(WebSocketTransactionTestCase):
    """With connections of the views' own."""

    def test_two_views_write_one_after_the_other(self):
        with self.client.websocket("/ws/sayings/1/") as one, self.client.websocket("/ws/sayings/1/") as other:
            one.send("first")
            self.assertEqual(one.receive(), "1")
            other.send("second")
            self.assertEqual(other.receive(), "2")
        self.assertEqual(Saying.objects.count(), 2)


class LiveTests(WebSocketLiveServerTestCase):
    """With a server, for tests with a browser."""

    def test_a_client_from_outside(self):
        Saying.objects.create(room=1, text="before")
        with connect(f"{self.live_websocket_url}/ws/sayings/1/") as ws:
            ws.send("hello")
            self.assertEqual(ws.receive(timeout=5), "2")
        self.assertEqual(Saying.objects.count(), 2)

    def test_pages_are_served_beside(self):
        with urlopen(f"{self.live_server_url}/") as page:
            self.assertEqual(page.read(), b"The page.")


class StaticTests(WebSocketStaticLiveServerTestCase):
    """With static files."""

    def test_static_files_are_served(self):
        with urlopen(f"{self.live_server_url}/static/sample.js") as page:
            self.assertIn(b"console.log", page.read())
