"""Pure logic: values, bytes and `now` go in, decisions come out. No socket, clock, greenlet or database."""
