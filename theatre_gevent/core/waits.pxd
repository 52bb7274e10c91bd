cimport cython

from . cimport native
from ..logic.deadlines cimport Deadlines
from .context cimport Context, Failure, RemoteRequest, Request
from .fifo cimport Fifo
from .remote cimport RemoteAsker

cdef object OPEN
cdef Py_ssize_t NEVER


cdef class Waits:
    cdef public object _loop
    cdef object _run_callback
    cdef object _dispatch
    cdef public object _timer
    cdef public double _timer_due
    cdef public bint armed
    cdef public object clock
    cdef public Deadlines deadlines
    cdef public object hub
    cdef public Request in_hand
    cdef public object monotonic
    cdef public long long replies_late
    cdef public long long requests_abandoned
    cdef public long long requests_timed_out
    cdef public Fifo resumes
    cdef public unsigned long thread
    cdef public object threads

    cpdef arm(self)
    cpdef check_lease(self)
    @cython.locals(asker=RemoteAsker)
    cpdef bint complete(self, Request waiter, object result) except -1
    cpdef resume(self, Request waiter)
    cpdef failure(self, Request request, double timeout)
    cpdef wait(self, Request pending)
    cpdef watch(self, Request waiter)
    cpdef _set_timer(self)
    cpdef abandon(self, Request request)
    cpdef requests_in_hand(self)
    cpdef unlink(self, Request request)
    @cython.locals(request=Request)
    cpdef settle(self)
