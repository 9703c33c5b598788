"""The sample project, set up for the tests of the adapter for Django: its settings, its test database in a file."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
os.environ["DJANGO_SETTINGS_MODULE"] = "sample.settings"
os.environ["SAMPLE_DIRECTORY"] = tempfile.mkdtemp(prefix="geventws-django-")
# Behind the tests themselves, which have a conftest as well.
sys.path.append(str(HERE))

import django  # noqa: E402

django.setup()

from django.db import connections  # noqa: E402
from django.test.utils import (  # noqa: E402
    setup_databases,
    setup_test_environment,
    teardown_databases,
    teardown_test_environment,
)
from running import Project  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _test_databases() -> Iterator[None]:
    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False)
    connections.close_all()
    yield
    connections.close_all()
    teardown_databases(databases, verbosity=0)
    teardown_test_environment()
    Path(os.environ["SAMPLE_DIRECTORY"]).rmdir()


@pytest.fixture(autouse=True)
def _empty_tables(_test_databases: None) -> Iterator[None]:
    """Each test finds the tables empty, and the database closed."""
    yield
    from django.contrib.auth import get_user_model
    from django.contrib.sessions.models import Session
    from sample.models import Saying

    for model in (Saying, Session, get_user_model()):
        model.objects.all().delete()
    connections.close_all()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables of the sample project."""
    directory = tmp_path_factory.mktemp("migrated")
    project = Project(directory)
    try:
        project.migrate()
    finally:
        project.end()
    return directory / "db.sqlite3"


@pytest.fixture
def project(tmp_path: Path, migrated: Path) -> Iterator[Project]:
    """A copy of the sample project with its tables, whose processes are ended after the test."""
    shutil.copy(migrated, tmp_path)
    project = Project(tmp_path)
    yield project
    project.end()
