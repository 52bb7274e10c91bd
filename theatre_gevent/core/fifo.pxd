cimport cython


@cython.final
cdef class Fifo:
    cdef list _items
    cdef Py_ssize_t _head
    cdef Py_ssize_t _size

    @cython.locals(items=list, size=Py_ssize_t)
    cpdef append(self, object item)

    @cython.locals(items=list, head=Py_ssize_t)
    cpdef popleft(self)

    cpdef clear(self)

    cdef list _in_order(self)
