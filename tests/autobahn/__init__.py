"""The Autobahn testsuite, run against geventws: as a command by run.py, and in the tests by test_autobahn.py."""
