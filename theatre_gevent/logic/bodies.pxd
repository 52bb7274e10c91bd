from .. cimport direct

cdef Py_ssize_t _MAX


cpdef object pack_body(object body)
