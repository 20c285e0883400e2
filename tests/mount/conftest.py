"""A directory in a process of its own, as for the adapters."""

from tests.adapters.conftest import server_url as server_url
