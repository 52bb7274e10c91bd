"""Theatre_gevent inside other people's servers."""
