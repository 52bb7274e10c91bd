cimport cython


@cython.final
cdef class Deadlines:
    cdef double _resolution
    cdef dict _buckets
    cdef list _order
    cdef Py_ssize_t _crowded

    @cython.locals(number=Py_ssize_t, bucket=set)
    cpdef Py_ssize_t add(self, object item, double deadline) except? -1

    @cython.locals(bucket=set)
    cpdef discard(self, object item, Py_ssize_t number)

    cpdef next_due(self)
