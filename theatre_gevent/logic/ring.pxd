cdef object _FRESH


cdef class HashRing:
    cdef readonly tuple members
    cdef readonly object virtual_nodes
    cdef list _points
    cdef list _owners
    cdef list _first

    cpdef owner(self, object ref)

    cdef _after(self, bytes place)


cdef bytes _place(object actor_type, object actor_id)
