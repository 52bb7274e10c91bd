"""Greenlets: activations, their turns, requests and lives. No sockets, no SQL."""
