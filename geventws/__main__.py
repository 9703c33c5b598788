"""`python -m geventws`."""

from .cli import main

raise SystemExit(main())
