"""The one Flask program that every server serves, unchanged. It is copied as `app.py` to where the server is started.

What a client cannot see of a connection, how it ended, stands under /ended/<name> afterwards.
"""

import threading
import time

from flask import Blueprint, Flask, abort, jsonify, request, session

from geventws.flask import Sockets

app = Flask(__name__)
app.secret_key = "not a secret"
# So often that a test sees it. Every view but /silent waits for pongs as long as it always does.
app.config["GEVENTWS_PING_INTERVAL"] = 0.5
sockets = Sockets(app)

ended = {}


@app.get("/")
def page():
    return "page"


@app.post("/length")
def length():
    return str(len(request.get_data()))


@app.get("/ended/<name>")
def how_it_ended(name):
    if name not in ended:
        abort(404)
    code, reason = ended[name]
    return jsonify(code=code, reason=reason)


@sockets.route("/echo")
def echo(ws):
    for message in ws:
        ws.send(message)


@sockets.route("/kind")
def kind(ws):
    for message in ws:
        ws.send(type(message).__name__)


@sockets.route("/closes/<int:code>")
def closes(ws, code):
    ws.close(code, "enough")


@sockets.route("/listens/<name>")
def listens(ws, name):
    while ws.receive() is not None:
        pass
    ended[name] = ws.close_code, ws.close_reason


@sockets.route("/ticks/<name>")
def ticks(ws, name):
    """Sends, and never receives."""
    try:
        while not ws.closed:
            ws.send("tick")
            time.sleep(0.02)
    finally:
        ended[name] = ws.close_code, ws.close_reason


@sockets.route("/waits/<name>")
def waits(ws, name):
    """Neither sends nor receives."""
    while not ws.closed:
        time.sleep(0.02)
    ended[name] = ws.close_code, ws.close_reason


@sockets.route("/silent/<name>", ping_interval=0.2, ping_timeout=0.5)
def silent(ws, name):
    ws.receive()
    ended[name] = ws.close_code, ws.close_reason


@sockets.route("/thread")
def thread(ws):
    sender = threading.Thread(target=ws.send, args=("from a thread",))
    sender.start()
    sender.join()
    ws.send("from the handler")


@sockets.route("/fails")
def fails(ws):
    ws.send("about to fail")
    raise ValueError("on purpose")


@sockets.route("/login", accept=False)
def login(ws):
    session["user"] = request.args["user"]
    ws.send("welcome")


@sockets.route("/members", accept=False)
def members(ws):
    if "user" not in session:
        abort(401)
    ws.send(session["user"])


@sockets.route("/speaks", subprotocols=["v2.chat", "v1.chat"])
def speaks(ws):
    ws.send(ws.subprotocol or "nothing")


@sockets.route("/facts")
def facts(ws):
    ws.send(f"{request.remote_addr} {request.scheme} {request.host} {request.args.get('a')} {request.path}")


chat = Blueprint("chat", __name__)


@chat.route("/rooms/<int:room>")
def room(ws, room):
    ws.send(f"room {room + 1}")


sockets.register_blueprint(chat, url_prefix="/chat")
