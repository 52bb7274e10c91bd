from .statistics cimport TypeStatistics


cdef class ActorType(TypeStatistics):
    cdef public object name
    cdef public object create
    cdef public object checked
    cdef public object dispatcher


cdef class Activation:
    cdef public object ref
    cdef public ActorType actor_type
    cdef public object receiver
    cdef public object inbox
    cdef public object worker
    cdef public double created_at
    cdef public double last_active
    cdef public long long messages_total
    cdef public int state
