cimport cython

from .activation cimport Activation
from .context cimport Context, Request, fill

cdef object OPEN
cdef Py_ssize_t NEVER


@cython.final
cdef class Pending(Request):
    pass


@cython.locals(pending=Pending)
cpdef Pending make_pending(object greenlet, double deadline, Context parent=*)

@cython.locals(asking=Context, asked=Request, activation=Activation)
cpdef call_chain(Context ctx, object target)

cpdef Request asked_by(Context ctx, Activation activation)
