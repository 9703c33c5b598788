"""The views of the sample project."""

from __future__ import annotations

import time

from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.utils.decorators import method_decorator
from django.views import View

from geventws.django import accept_websocket, messages, websocket_view
from sample.models import Saying


def page(request):
    return HttpResponse("The page.")


def slow_page(request):
    time.sleep(0.5)
    return HttpResponse(str(Saying.objects.count()))


@websocket_view
def echo(request):
    for message in request.websocket:
        request.websocket.send(message)


@websocket_view
def room(request, room):
    request.websocket.send(f"This is room {room!r}.")


@login_required
@websocket_view
def members(request):
    request.websocket.send(f"Hello {request.user}.")


@websocket_view
@login_required
def members_below(request):
    request.websocket.send(f"Hello {request.user}.")


@permission_required("sample.add_saying", raise_exception=True)
@websocket_view
def writers(request):
    request.websocket.send("You may write.")


class MembersOnly(LoginRequiredMixin, View):
    def get(self, request):
        request.websocket.send(f"Hello {request.user}.")


@method_decorator(websocket_view(max_message_size=5), name="get")
class ShortMessages(View):
    def get(self, request):
        for message in request.websocket:
            request.websocket.send(message)


@websocket_view(accept=False)
def choosy(request):
    if "password" not in request.GET:
        raise PermissionDenied("no password")
    request.websocket.accept(subprotocol="graphql-ws")
    request.websocket.send("Welcome.")


@accept_websocket
def clock(request):
    if request.websocket is None:
        return HttpResponse("The page with the clock.")
    while not request.websocket.closed:
        request.websocket.send(time.strftime("%H:%M:%S"))
        time.sleep(0.01)
    return None


@websocket_view(accept=False)
def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    request.websocket.accept()
    request.websocket.send(str(request.session["visits"]))
    for message in request.websocket:
        request.websocket.send(message)


@websocket_view(accept=False)
def token(request):
    get_token(request)
    request.websocket.accept(headers=[("X-Token", "is in the cookie")])


@websocket_view
def sayings(request, room):
    for text in messages(request.websocket):
        Saying.objects.create(room=room, text=text)
        request.websocket.send(str(Saying.objects.filter(room=room).count()))


@websocket_view
def transactions(request, room):
    """ "count" says how many sayings there are; anything else is written, and committed or rolled back as the peer says."""
    ws = request.websocket
    for text in ws:
        if text == "count":
            ws.send(str(Saying.objects.filter(room=room).count()))
            continue
        with transaction.atomic():
            Saying.objects.create(room=room, text=text)
            ws.send("written")
            if ws.receive() != "commit":
                raise ValueError("on purpose")
        ws.send("committed")


@websocket_view
def waits_in_a_transaction(request):
    with transaction.atomic():
        for message in messages(request.websocket):
            request.websocket.send(message)


@websocket_view
def naps(request):
    """Keeps the database busy for as many seconds as it is told, and says which of its processes that was."""
    for seconds in messages(request.websocket):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid() FROM pg_sleep(%s)", [float(seconds)])
            request.websocket.send(str(cursor.fetchone()[0]))


@websocket_view
def keeps(request):
    """Uses the database, and keeps the connection while it waits."""
    for message in request.websocket:
        request.websocket.send(str(Saying.objects.filter(text=message).count()))


@websocket_view
def fails(request, how):
    errors = {"value": ValueError("on purpose"), "404": Http404("no such thing"), "403": PermissionDenied("not you")}
    request.websocket.receive()
    raise errors[how]


@websocket_view(accept=False)
def fails_first(request):
    raise ValueError("on purpose")


@websocket_view(accept=True)
@login_required
def too_late(request):
    raise AssertionError("never called")


@websocket_view
def returns(request):
    request.websocket.receive()
    return HttpResponseRedirect("/")


@websocket_view
def changes_later(request):
    """Changes the session once the handshake is answered."""
    for message in request.websocket:
        request.session["said"] = message
        request.websocket.send(message)


@websocket_view
def stuck(request):
    request.websocket.send("stuck")
    while True:
        time.sleep(3600)


@accept_websocket
def atomic(request):
    """Whether it is called in a transaction."""
    answer = str(connection.in_atomic_block)
    if request.websocket is None:
        return HttpResponse(answer)
    request.websocket.send(answer)
    return None
