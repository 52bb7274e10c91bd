cdef class Backpressure:
    cdef public object _dispatcher
    cdef public Py_ssize_t _size
    cdef public Py_ssize_t _reserved
    cdef public object _refusal
    cdef public bint _actors_allowed
    cdef public Py_ssize_t _in_line
    cdef public dict lines
    cdef public object room
    cdef public Py_ssize_t inbox_full

    cpdef bint is_open(self)
    cpdef grant(self, Py_ssize_t finished=*)
