cimport cython

from .. cimport direct
from . cimport syscalls

from ..core cimport native
from ..logic.connection cimport Connection
from .handler cimport Counters
from .outbox cimport Outbox
from .wire cimport Wire

cdef Py_ssize_t _READ_MAX, _WRITES, JOIN, READ_MIN


cdef class Flushes:
    cdef object _run_callback
    cdef object _callback
    cdef list _due

    cpdef add(self, QuickWire wire)

    @cython.locals(due=list, done=Py_ssize_t, wire=QuickWire)
    cpdef _flush(self)


cdef class QuickWire(Wire):
    cdef public object _raw
    cdef public object _hub
    cdef int _number
    cdef object _monotonic
    cdef Flushes _flushes
    cdef public object _io
    cdef public Outbox _outbox
    cdef public bint _busy
    cdef public bint _armed
    cdef public object _begun
    cdef public list _events
    cdef public object _trouble
    cdef public object _for_greenlet

    @cython.locals(data=bytes, now=double, counters=Counters, connection=Connection, events=list, place=Py_ssize_t, messages=list, unmade=list, count=Py_ssize_t)
    cpdef _readable(self, object owner, object handler)

    cpdef rouse(self)
    cpdef _rest(self, Outbox outbox)
    cpdef bint _write_some(self, Outbox outbox) except -1

    @cython.locals(outbox=Outbox, data=bytes, sent=Py_ssize_t)
    cpdef _flush(self)
