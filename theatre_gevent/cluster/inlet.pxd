from .outbox cimport Outbox


cdef class Inlet(Outbox):
    cdef public object peer
    cdef public object epoch
    cdef public bint closed
    cdef public object _wire
    cdef public object _reports
