cimport cython

from .. cimport direct
from ..core cimport native
from ..core.activation cimport Activation
from ..core.context cimport Context, Failure, RemoteRequest, make_context, make_remote_request
from ..core.dispatcher cimport Dispatcher
from ..core.remote cimport RemoteAsker
from ..logic.bodies cimport pack_body
from .inlet cimport Inlet

cdef object OPEN, SEND, REQUEST, REPLY
cdef Py_ssize_t NEVER


cdef class ReplyTo(RemoteAsker):
    cdef public Inlet _inlet
    cdef public object _seq

    cpdef object pack(self, object result)

    @cython.locals(inlet=Inlet)
    cpdef deliver(self, object request)


cdef class Incoming:
    cdef public Dispatcher _dispatcher
    cdef public object _router
    cdef public long long arrived
    cdef public bint _is_open

    @cython.locals(dispatcher=Dispatcher, actors=dict, refused=dict, activation=Activation)
    cpdef received(self, Inlet inlet, object messages, object unmade)

    @cython.locals(dispatcher=Dispatcher, ctx=Context, deadline=double)
    cpdef take(self, Inlet inlet, object message, Activation activation)
