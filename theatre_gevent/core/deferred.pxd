from .activation cimport Activation
from .context cimport Request


cdef class DeferredReplies:
    cdef public object _waits
    cdef public dict _requests

    cpdef add(self, Activation activation, Request request)
    cpdef list open(self, Activation activation)
