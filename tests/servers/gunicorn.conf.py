"""gunicorn's configuration for a program with WebSockets behind a proxy. In the directory of app.py: `gunicorn app:app`."""

from geventws.servers.gunicorn import GeventWebSocketWorker

# Options of the WebSockets; nothing in the parentheses for the defaults.
worker_class = GeventWebSocketWorker.configured(max_message_size=16 * 2**20, compression=True)

bind = "127.0.0.1:8000"

# One for each core. Each has connections of its own: what is for all of them goes through Redis or the like.
workers = 2

# For each worker, WebSockets and others. `ulimit -n` has to allow some more files than that.
worker_connections = 10_000

accesslog = "-"
access_log_format = '%(h)s %(t)s "%(r)s" %(s)s %(B)s %(L)ss close=%({geventws.close_code}e)s'

# Who may say that a request came by https. Here it is the proxy on this machine.
forwarded_allow_ips = "127.0.0.1"

# Seconds that requests may go on when a worker is to end. WebSockets are closed at once, with 1012.
graceful_timeout = 20

# A new worker after so many requests, against leaks; not all workers at the same time.
max_requests = 100_000
max_requests_jitter = 10_000
