cimport cython


cdef int _MESSAGES
cdef Py_ssize_t _COPIED


cpdef tuple encode_messages(list messages)


cdef class MessageDecoder:
    cdef public bint _failed
    cdef public object _decode

    cpdef tuple decode(self, object payload)


cdef class FrameReader:
    cdef public Py_ssize_t limit
    cdef public object _buffer
    cdef public Py_ssize_t _start

    cpdef feed(self, bytes data)

    @cython.locals(start=Py_ssize_t, have=Py_ssize_t, length=cython.longlong, kind=int, end=Py_ssize_t, data=bytes)
    cpdef next_frame(self)
