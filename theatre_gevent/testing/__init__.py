"""What tests of actors need: fakes that are as public and as documented as the library itself.

The fixtures of the pytest plugin are in `theatre_gevent.testing.plugin`.
"""

from .clock import VirtualClock
from .hosts import TestCluster
from .probe import ActorProbe, Received

__all__ = ["ActorProbe", "Received", "TestCluster", "VirtualClock"]
