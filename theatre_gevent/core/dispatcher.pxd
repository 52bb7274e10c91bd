cimport cython

from . cimport native
from .activation cimport Activation
from .backpressure cimport Backpressure
from .context cimport Context, Failure, Request, make_context, make_request
from .fifo cimport Fifo
from .lifecycle cimport Lifecycle
from .registry cimport Registry
from .remote cimport Router
from .requests cimport call_chain, make_pending
from .waits cimport Waits

cdef object OPEN, Parked, Worker
cdef int ACTIVE, LEAVING
cdef Py_ssize_t NEVER
cdef long long CLOSED, MAX_TURNS
cdef double MAX_TIMEOUT, TIME_BUDGET

cdef class Dispatcher(Waits)

from .worker cimport Desk


cdef class Dispatcher(Waits):
    cdef public object _soon
    cdef public long long accept_limit
    cdef public long long accepted
    cdef public dict actors
    cdef public object at_rest
    cdef public Backpressure backpressure
    cdef public long long blocked
    cdef public object cancelled
    cdef public long long dead_lettered
    cdef public long long hand_limit
    cdef public double hand_until
    cdef public long long handed_over
    cdef public long long headroom
    cdef public Py_ssize_t inbox_size
    cdef public list inboxes
    cdef public object lease
    cdef public Lifecycle lifecycle
    cdef public double now
    cdef public object on_lapse
    cdef public object options
    cdef public bint owed
    cdef public list parked
    cdef public Fifo ready
    cdef public long long received
    cdef public Registry registry
    cdef public double request_timeout
    cdef public long long requests_queued
    cdef public Router router
    cdef public object schedules
    cdef public long long turns_left
    cdef public set workers
    cdef public double yield_at

    @cython.locals(activation=Activation, queue=Fifo, until=double)
    cpdef send(self, object ref, object body, object _sender=*, Context _ctx=*)

    @cython.locals(activation=Activation, parent=Context, now=double, deadline=double, request=Request, desk=Desk, queue=Fifo,
        seconds=double)
    cpdef request(self, object ref, object body, object timeout=*, Context _ctx=*)

    @cython.locals(activation=Activation)
    cpdef _queue(self, Request request, double timeout, Context ctx)

    cpdef _await(self, Request request, double timeout)

    @cython.locals(queue=Fifo, lines=dict)
    cpdef bint deliver(self, Activation activation, Context ctx) except -1

    @cython.locals(queue=Fifo)
    cpdef Fifo wake(self, Activation activation)

    @cython.locals(activation=Activation, pending=Request, now=double, yield_at=double, lease_until=double, desk=Desk, owed=bint,
        ready=Fifo, resumes=Fifo)
    cpdef dispatch(self)

    cpdef Py_ssize_t busy(self) except -1

    @cython.locals(busy=Py_ssize_t)
    cpdef _count_blocked(self)

    cpdef check_lease(self)

    cpdef rested(self)
