from .outbox cimport Outbox
from .wire cimport Wire


cdef class Inlet(Outbox):
    cdef public object peer
    cdef public object epoch
    cdef public bint closed
    cdef public dict refused
    cdef public Wire _wire
    cdef public object _reports

    cpdef _wake(self)
