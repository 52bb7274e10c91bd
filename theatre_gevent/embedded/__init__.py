"""A private PostgreSQL server for tests, examples and load tests: started, used and removed by one program."""

from .server import EmbeddedPostgres, EmbeddedPostgresError

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
