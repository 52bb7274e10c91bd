cimport cython

from .activation cimport Activation, ActorType


cdef class Registry:
    cdef double _idle_timeout
    cdef double _interval
    cdef object _clock
    cdef object _timer
    cdef object _wheel
    cdef object _dispatcher
    cdef public dict types
    cdef public dict actors
    cdef public object on_removed
    cdef public object on_let_go
    cdef public dict reasons

    @cython.locals(actor_type=ActorType)
    cpdef ActorType type_of(self, object ref)

    cpdef object check(self, object ref)

    @cython.locals(actor_type=ActorType, activation=Activation)
    cpdef Activation activate(self, object ref)

    cpdef object replace(self, Activation activation, Activation successor)

    cpdef object let_go(self, object ref)

    cpdef object forget_unused(self, Activation activation)

    cpdef object watch_idleness(self, Activation activation, double now)
