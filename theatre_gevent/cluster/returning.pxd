cimport cython

from .. cimport direct
from ..core.context cimport Request
from ..core.dispatcher cimport Dispatcher
from ..core.fifo cimport Fifo
from .router cimport ClusterRouter

cdef object OPEN, REPLY


cdef class Returning:
    cdef public ClusterRouter _router
    cdef public Dispatcher _dispatcher

    @cython.locals(router=ClusterRouter, dispatcher=Dispatcher, pending=dict, resumes=Fifo, request=Request)
    cpdef received(self, object source, object messages, object unmade)
