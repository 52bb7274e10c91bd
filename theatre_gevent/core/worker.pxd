cimport cython

from . cimport native
from .activation cimport Activation, ActorType
from .backpressure cimport Backpressure
from .context cimport Context, Request
from .deferred cimport DeferredReplies
from .fifo cimport Fifo

cdef object OPEN, UNLIMITED
cdef int ACTIVE
cdef Py_ssize_t _LOOK, MAX_PARKED, MAX_POOLED, TURN_BUDGET

cdef class Desk

from .dispatcher cimport Dispatcher


@cython.final
cdef class Desk:
    cdef public object worker
    cdef public Dispatcher dispatcher
    cdef public object work
    cdef public Activation activation
    cdef public Context ctx
    cdef public Request back
    cdef public bint dismissed

    @cython.locals(
        ready=Fifo, parked=list, backpressure=Backpressure, deferred=DeferredReplies, lines=dict,
        dispatcher=Dispatcher, activation=Activation, request=Request, back=Request, now=double, actor_type=ActorType, left=Py_ssize_t,
        compiled=bint
    )
    cpdef run(self)

    @cython.locals(
        dispatcher=Dispatcher, handled=Py_ssize_t, budget=Py_ssize_t, ctx=Context, actor_type=ActorType, timed=Py_ssize_t, leased=bint,
        inbox=Fifo, lines=dict, back=Request
    )
    cpdef _turn(self, Activation activation)

    @cython.locals(dispatcher=Dispatcher)
    cpdef _over(self, Activation activation, long long handled)

    @cython.locals(dispatcher=Dispatcher)
    cpdef release(self, Activation activation)
