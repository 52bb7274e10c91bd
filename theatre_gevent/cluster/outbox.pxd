cimport cython

from ..core cimport native
from .handler cimport Counters

cdef Py_ssize_t MAX_BURST, _FRAME_BYTES, _FIRST_BURST


cdef class Outbox:
    cdef public bint full
    cdef public list _queue
    cdef public Py_ssize_t _limit
    cdef public bint _armed
    cdef public list _frames
    cdef public Py_ssize_t _encoded
    cdef public Py_ssize_t _bytes
    cdef public Py_ssize_t _begun
    cdef public Py_ssize_t _broken
    cdef public Py_ssize_t _burst
    cdef public Py_ssize_t _room
    cdef public Py_ssize_t _room_bytes
    cdef public object _clock
    cdef public object _monotonic
    cdef public Counters _counters
    cdef public object _line
    cdef public Py_ssize_t _granted
    cdef public object _over

    @cython.locals(queue=list)
    cpdef send(self, object message)

    @cython.locals(messages=list)
    cpdef _more(self)

    cpdef _set_limit(self)

    @cython.locals(messages=list)
    cpdef _pack(self)

    @cython.locals(frames=list, refused=list, count=Py_ssize_t, size=Py_ssize_t)
    cpdef _encode(self, list messages)

    @cython.locals(frames=list, data=bytes, parts=list, size=Py_ssize_t)
    cpdef bytes _head(self, Py_ssize_t at_most)

    @cython.locals(begun=Py_ssize_t, frames=list, counters=Counters, data=bytes, messages=list)
    cpdef _wrote(self, Py_ssize_t size)

    cpdef _rest(self)

    cpdef bint _is_empty(self) except -1

    cpdef _wake(self)
