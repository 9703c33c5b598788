"""A Django project with WebSockets: what the tests run, and what docs/django.md shows."""
