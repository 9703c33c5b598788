"""The same application for `python -m geventws serve served:app`, which installs the scope before it imports anything here."""

from programs import shared_locks
from server import app

__all__ = ["app", "shared_locks"]
