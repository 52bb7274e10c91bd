cimport cython

from .context cimport Context, make_context


@cython.final
cdef class Scheduled(Context):
    cdef public object _firing


cpdef Context context(object activation, object body, object sender, object headers)

@cython.locals(ctx=Scheduled)
cpdef Scheduled make_scheduled(object activation, object message, object sender, object firing)
