cimport cython


cdef class TypeStatistics:
    cdef public Py_ssize_t left
    cdef public Py_ssize_t _due
    cdef public Py_ssize_t _sampled
    cdef public Py_ssize_t activations
    cdef public Py_ssize_t ended
    cdef public Py_ssize_t failed
    cdef public Py_ssize_t errors
    cdef public list times
    cdef public double seconds

    @cython.locals(number=Py_ssize_t, weight=Py_ssize_t, distance=Py_ssize_t, began=double, seconds=double)
    cpdef call(self, object receive, object ctx, object monotonic, Py_ssize_t handled)
