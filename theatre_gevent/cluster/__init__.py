"""The cluster: what does I/O around the pure logic of `theatre_gevent.logic`."""
