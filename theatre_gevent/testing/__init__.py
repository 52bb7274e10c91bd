"""What tests of actors need: fakes that are as public and as documented as the library itself."""

from .clock import VirtualClock

__all__ = ["VirtualClock"]
