cimport cython

from .codec cimport FrameReader, MessageDecoder


cdef class Connection:
    cdef public object state
    cdef public object peer
    cdef public object _ours
    cdef public object _theirs
    cdef public object _secret
    cdef public object _admit
    cdef public object _limits
    cdef public FrameReader _reader
    cdef public MessageDecoder _decoder
    cdef public list _out
    cdef public bytes _hello
    cdef public bytes _challenge
    cdef public double _started
    cdef public double _heard
    cdef public double _checked
    cdef public double _asked
    cdef public object _frame_since

    @cython.locals(events=list, reader=FrameReader)
    cpdef list receive_data(self, bytes data, double now)

    cpdef bytes data_to_send(self)

    cpdef _on_messages(self, object payload)
