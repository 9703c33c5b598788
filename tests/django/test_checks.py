"""The setting GEVENTWS, and what `manage.py check` says of a project with mistakes."""

from __future__ import annotations

from typing import Any

import asgiref
import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from geventws.django import WebSocketMiddleware
from geventws.scope import patched_by_gevent


def found(**settings: Any) -> list[Any]:
    with override_settings(**settings):
        return [message for message in run_checks() if message.id.startswith("geventws.")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"MAX_MESAGE_SIZE": 5},
            r"GEVENTWS\['MAX_MESAGE_SIZE'\] is not an option of WebSockets; there are: CLOSE_TIMEOUT",
        ),
        ({"max_message_size": 5}, r"GEVENTWS\['max_message_size'\] is not an option"),
        ({5: 5}, r"GEVENTWS\[5\] is not an option"),
        ({"MAX_MESSAGE_SIZE": 0}, "GEVENTWS: max_message_size must be a whole number"),
        ({"MAX_CONNECTIONS": 5}, r"GEVENTWS\['MAX_CONNECTIONS'\] comes too late"),
        (["MAX_MESSAGE_SIZE"], "GEVENTWS is a dict such as"),
    ],
)
def test_a_wrong_setting_is_an_error_of_the_check_and_of_the_middleware(value: Any, said: str) -> None:
    (message,) = found(GEVENTWS=value)
    assert message.id == "geventws.E001"
    with override_settings(GEVENTWS=value), pytest.raises(ImproperlyConfigured, match=said):
        WebSocketMiddleware(lambda request: None)


def test_a_missing_middleware_is_an_error() -> None:
    (message,) = found(MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
    assert message.id == "geventws.E002"


def test_an_asgiref_that_shares_connections_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgiref, "__version__", "3.6.0")
    (message,) = found()
    assert message.id == "geventws.E003"


def test_without_the_scope_shared_connections_are_a_warning() -> None:
    if patched_by_gevent():
        pytest.skip("in a patched process each greenlet has connections of its own")
    (message,) = found(GEVENTWS={"COOPERATIVE": False})
    assert message.id == "geventws.W001"


def test_a_project_without_mistakes_has_none() -> None:
    assert found(GEVENTWS={"MAX_MESSAGE_SIZE": 5, "ORIGINS": ["example.com"]}) == []


def test_the_label_is_not_django_s() -> None:
    assert apps.get_app_config("geventws").name == "geventws.django"
