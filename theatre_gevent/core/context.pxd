cimport cython

from .activation cimport Activation
from .record cimport Record

cdef int STOPPED


@cython.final
cdef class Failure:
    cdef public object error


cdef class Context(Record):
    pass


cdef class Request(Context):
    cdef public object greenlet
    cdef public double deadline
    cdef public Context parent
    cdef public bint in_hand
    cdef public Request below
    cdef public object result
    cdef public Py_ssize_t bucket


@cython.final
cdef class RemoteRequest(Request):
    cdef public object _firing


@cython.locals(activation=Activation)
cpdef answer(Request request, object body)

@cython.locals(ctx=Context)
cpdef Context make_context(object activation, object message, object sender)

@cython.locals(request=Request)
cpdef Request make_request(
    object activation, object message, object sender, object greenlet, double deadline, Context parent, bint in_hand,
    Request below, object result, Py_ssize_t bucket
)

@cython.locals(request=RemoteRequest)
cpdef RemoteRequest make_remote_request(
    object activation, object message, object sender, object greenlet, double deadline, Context parent, bint in_hand,
    Request below, object result, Py_ssize_t bucket, object firing
)

cpdef fill(
    Request request, object activation, object message, object sender, object greenlet, double deadline,
    Context parent, bint in_hand, Request below, object result, Py_ssize_t bucket
)
