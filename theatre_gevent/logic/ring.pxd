cdef object _FRESH


cdef class HashRing:
    cdef readonly tuple members
    cdef readonly object virtual_nodes
    cdef list _points
    cdef list _owners

    cpdef owner(self, object ref)


cdef bytes _place(object actor_type, object actor_id)
