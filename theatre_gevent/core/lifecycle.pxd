cimport cython

from .activation cimport Activation
from .context cimport Context, make_context
from .deferred cimport DeferredReplies


cdef class Lifecycle:
    cdef public object _dispatcher
    cdef public object _on_panic
    cdef public bint closing
    cdef public dict spawning
    cdef public set telling
    cdef public Py_ssize_t activations_total
    cdef public Py_ssize_t activations_failed
    cdef public Py_ssize_t activations_ended
    cdef public Py_ssize_t receiver_errors
    cdef public DeferredReplies deferred
    cdef public dict errors
    cdef public object journal
    cdef public dict reasons
