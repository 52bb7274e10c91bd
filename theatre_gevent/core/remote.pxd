cdef class RemoteAsker:
    cdef public list chain

    cpdef object pack(self, object result)
    cpdef deliver(self, object request)


cdef class Asked:
    cdef public object ref
    cdef public long long seq
    cdef public object host_id
    cdef public object body
    cdef public object chain
    cdef public int attempt
