from ..core.dispatcher cimport Dispatcher
from ..core.remote cimport Router


cdef class Ways(Router):
    cdef public Dispatcher dispatcher
    cdef public dict _ways
    cdef public double _ways_until
    cdef public dict _old_ways
    cdef public double _old_until
    cdef public double _ttl

    cpdef learn(self, object ref, object link)
