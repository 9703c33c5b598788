"""Settings of the sample project. What tests vary is in the environment."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(os.environ.get("SAMPLE_DIRECTORY", Path(__file__).parent))

SECRET_KEY = "not a secret"
DEBUG = os.environ.get("SAMPLE_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ROOT_URLCONF = "sample.urls"
WSGI_APPLICATION = "sample.wsgi.application"
LOGIN_URL = "/login/"
STATIC_URL = "/static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "geventws.django",
    "sample",
]

MIDDLEWARE = [
    "geventws.django.WebSocketMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

# In memory, as new projects have it for tests, or in a file, where each connection is one of its own.
_TEST = {} if os.environ.get("SAMPLE_MEMORY") == "1" else {"NAME": str(DIRECTORY / "test.sqlite3")}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DIRECTORY / "db.sqlite3"),
        "OPTIONS": {"timeout": 20},
        "TEST": _TEST,
    }
}

if "SAMPLE_POSTGRESQL" in os.environ:
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["SAMPLE_POSTGRESQL"],
        # To be seen that it does no harm.
        "CONN_MAX_AGE": 0 if "SAMPLE_POOL" in os.environ else 600,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}} if "SAMPLE_POOL" in os.environ else {},
    }

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
