from .context cimport Request


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


cdef class Router:
    cdef public long long forwarded
    cdef public long long taken
    cdef public long long requests
    cdef public long long dropped

    cpdef way(self, object ref)
    cpdef send(self, object way, object ref, object body, object sender, object firing=*)
    cpdef ask(self, object way, object ref, Request request)
    cpdef forget(self, Request request)
