"""The WSGI application, for any server: `python -m geventws serve sample.wsgi:application`, `gunicorn sample.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

from geventws.middleware import WebSocketMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sample.settings")
application = WebSocketMiddleware(get_wsgi_application())
