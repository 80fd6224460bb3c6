"""The command line called in this process."""

from tests.pipeline.conftest import cli as cli  # a fixture
