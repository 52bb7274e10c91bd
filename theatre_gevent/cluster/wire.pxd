cimport cython

from ..logic.connection cimport Connection
from .handler cimport Counters
from .outbox cimport Outbox


cdef class Wire:
    cdef public object sock
    cdef public object where
    cdef public object error
    cdef public bint encrypted
    cdef public bint ended
    cdef public object _wake
    cdef public Connection _connection
    cdef public object _clock
    cdef public Counters _counters
    cdef public object _limits
    cdef public list _control
    cdef public list _early
    cdef public object _writing_since
    cdef public bint _held_up
    cdef public double _signed
    cdef public double _read_until
    cdef public double _write_until
    cdef public object _write_error
    cdef public bint _leaving
    cdef public Py_ssize_t _read_size

    cpdef rouse(self)
    cpdef _tell(self)
    cpdef _rest(self, Outbox outbox)
    cpdef bint _write_some(self, Outbox outbox) except -1
