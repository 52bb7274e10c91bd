from .outbox cimport Outbox
from .wire cimport Wire


cdef class Link(Outbox):
    cdef public object host_id
    cdef public object address
    cdef public bint is_up
    cdef public object last_error
    cdef public object peer
    cdef public object _transport
    cdef public Wire _wire
    cdef public object _nudge
    cdef public long long _failures
    cdef public double _last_attempt
    cdef public double _down_since

    cpdef _wake(self)
