cdef class Counters:
    cdef public long long bytes_in
    cdef public long long bytes_out
    cdef public long long batches_in
    cdef public long long batches_out
    cdef public long long messages_in
    cdef public long long messages_out
    cdef public long long messages_lost
    cdef public long long replies_dropped
    cdef public long long connects
    cdef public long long connect_failures
    cdef public long long accepts
    cdef public long long refusals
    cdef public long long failures
