cdef extern from *:
    """
    #include "greenlet/greenlet.h"

    /* Each extension module has a table of greenlet's functions of its own. */
    static CYTHON_INLINE int theatre_has_greenlet(void) {
        if (_PyGreenlet_API == NULL) {
            PyGreenlet_Import();
            if (_PyGreenlet_API == NULL) {
                if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "greenlet has no C functions");
                return 0;
            }
        }
        return 1;
    }
    static CYTHON_INLINE PyObject *theatre_getcurrent(void) {
        return theatre_has_greenlet() ? (PyObject *) PyGreenlet_GetCurrent() : NULL;
    }
    static CYTHON_INLINE PyObject *theatre_switch(PyObject *target) {
        return theatre_has_greenlet() ? PyGreenlet_Switch((PyGreenlet *) target, NULL, NULL) : NULL;
    }
    """
    object theatre_getcurrent()
    object theatre_switch(object target)
    unsigned long PyThread_get_thread_ident() noexcept


cdef inline unsigned long get_ident() noexcept:
    return PyThread_get_thread_ident()


cdef inline object getcurrent():
    return theatre_getcurrent()


cdef inline object switch(object target):
    return theatre_switch(target)
