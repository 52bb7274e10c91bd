cdef class Record:
    cdef public object _activation  # an Activation, or the Asked in its place
    cdef public object message
    cdef public object sender
