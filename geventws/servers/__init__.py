"""One module for each server other than `gevent.pywsgi`, and only what is that server's: where it has the connection of a
request, how it is told that the answer has been given, or a worker that gunicorn is started with.

Nothing of frameworks, and nothing that two servers have in common: that is in `connection`.
"""
