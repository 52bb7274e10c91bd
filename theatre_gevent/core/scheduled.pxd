cimport cython

from .context cimport Context, Request, fill, make_context


@cython.final
cdef class Scheduled(Context):
    cdef public object _firing


@cython.final
cdef class ScheduledRequest(Request):
    cdef public object _firing


cpdef Context context(object activation, object body, object sender, object headers)

@cython.locals(ctx=Scheduled)
cpdef Scheduled make_scheduled(object activation, object message, object sender, object firing)

@cython.locals(request=ScheduledRequest)
cpdef ScheduledRequest make_scheduled_request(
    object activation, object message, object sender, object greenlet, double deadline, Context parent, bint in_hand,
    Request below, object result, Py_ssize_t bucket, object firing
)
