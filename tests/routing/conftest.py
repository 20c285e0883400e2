"""What the tests of routing share with those of the API."""

from tests.api.conftest import tls_files as tls_files
