cimport cython

from ..core cimport native
from ..core.context cimport Request
from ..core.dispatcher cimport Dispatcher
from ..core.remote cimport Asked
from ..logic.bodies cimport pack_body
from .incoming cimport Incoming
from .inlet cimport Inlet
from .link cimport Link
from .outbox cimport Outbox
from .ways cimport Ways

cdef object SEND, REQUEST


cdef class ClusterRouter(Ways):
    cdef public object cluster
    cdef public object transport
    cdef public object detours
    cdef dict _detoured
    cdef public object settling
    cdef public object claiming
    cdef public Incoming _incoming
    cdef public object _returning
    cdef public object barriers
    cdef public dict pending
    cdef public long long _seq
    cdef public object host_id
    cdef public long long returned
    cdef public bint is_leaving
    cdef public object opened
    cdef public set _goodbyes

    cpdef way(self, object ref)

    cdef _find(self, object ref)

    cpdef place(self, object ref, object owner=*)

    @cython.locals(link=Link)
    cpdef send(self, object way, object ref, object body, object sender, object firing=*)

    @cython.locals(asked=Asked, link=Link)
    cpdef ask(self, object way, object ref, Request request)

    @cython.locals(left=double)
    cpdef ask_at(self, Link link, Asked asked, Request request)

    cpdef _next_seq(self)

    cpdef forget(self, Request request)

    cpdef received(self, object source, object messages, object unmade)

    @cython.locals(dispatcher=Dispatcher)
    cpdef bint can_take(self, object source, Py_ssize_t count) except -1
