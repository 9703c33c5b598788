"""CPython's own regression tests, run without the scope, beside it and in it. Only what runs and judges them belongs here."""
