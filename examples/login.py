"""Who may come in is decided before the handshake is answered: login, 401, 403 and cookies for Flask WebSockets.

python examples/login.py          then log in as ada (password lovelace) or as guest (password guest)
"""

import argparse
import secrets
import signal

import gevent
from flask import Flask, abort, redirect, render_template_string, request, session, url_for
from gevent.pywsgi import WSGIServer
from werkzeug.security import check_password_hash, generate_password_hash

from geventws.flask import Sockets
from geventws.handler import WebSocketHandler

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Login</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
  input, button { font: inherit; padding: .5rem .75rem; margin: 0 .5rem .5rem 0 }
</style>
{% if session.user %}
  <h1>Hello {{ session.user }}</h1>
  <form method="post" action="{{ url_for('logout') }}"><button>Log out</button></form>
  <h2>/visits, for everybody who is logged in</h2>
  <p id="visits" aria-live="polite">…</p>
  <h2>/admin, for ada alone</h2>
  <p id="admin" aria-live="polite">…</p>
  <script>
    function open(name, subprotocols) {
      const show = (text) => { document.getElementById(name).textContent = text; };
      const ws = new WebSocket(location.href.replace(/^http/, "ws") + name, subprotocols);
      ws.onmessage = (event) => show(event.data + (ws.protocol && ` (subprotocol ${ws.protocol})`));
      ws.onerror = () => show("The server refused the handshake.");
    }
    open("visits", ["visits.v2", "visits.v1"]);
    open("admin", []);
  </script>
{% else %}
  <h1>Please log in</h1>
  {% if failed %}<p role="alert">That is not the right name and password.</p>{% endif %}
  <form method="post">
    <input name="user" aria-label="Name" placeholder="ada" autocomplete="username" required autofocus>
    <input name="password" type="password" aria-label="Password" placeholder="lovelace"
           autocomplete="current-password" required>
    <button>Log in</button>
  </form>
{% endif %}
"""

USERS = {"ada": generate_password_hash("lovelace"), "guest": generate_password_hash("guest")}
ADMINS = {"ada"}

app = Flask(__name__)
app.secret_key = secrets.token_bytes()  # a new one at every start: everybody has to log in again
app.config.update(SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Lax")
sockets = Sockets(app)


@app.before_request
def only_for_users():
    """Guards pages and WebSockets alike. What it answers instead of the view ends the request before any handshake."""
    if "user" in session or request.endpoint == "login":
        return None
    if request.environ.get("wsgi.websocket"):
        abort(401)  # a redirect would do too, but browsers do not follow it for a WebSocket
    return redirect(url_for("login"))


@sockets.route("/visits", accept=False)
def visits(ws):
    """accept=False: the handshake waits, so cookies and the subprotocol can still be chosen, or the request refused."""
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if "visits.v1" not in offered:
        abort(400, "This address speaks visits.v1.")
    session["visits"] = session.get("visits", 0) + 1  # before the accept: travels as Set-Cookie in the 101
    ws.accept(subprotocol="visits.v1")
    ws.send(f"{session['user']} has been here {session['visits']} times")  # the session stays readable
    for _ in ws:  # nothing is expected; this ends when the page goes
        pass


@sockets.route("/admin", accept=False)
def admin(ws):
    if session["user"] not in ADMINS:
        abort(403)
    ws.accept()
    ws.send(f"Known users: {', '.join(USERS)}")
    for _ in ws:
        pass


@app.get("/")
def index():
    return render_template_string(PAGE)


@app.route("/login", methods=["GET", "POST"])
def login():
    failed = False
    if request.method == "POST":
        user = request.form.get("user", "")
        failed = user not in USERS or not check_password_hash(USERS[user], request.form.get("password", ""))
        if not failed:
            session.clear()
            session["user"] = user
            return redirect(url_for("index"))
    return render_template_string(PAGE, failed=failed), 401 if failed else 200


@app.post("/logout")
def logout():
    session.clear()
    return redirect(url_for("login"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WSGIServer((options.host, options.port), app, handler_class=WebSocketHandler)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Login on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
