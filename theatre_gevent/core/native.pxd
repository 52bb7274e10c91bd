cdef extern from *:
    """
    #include <time.h>
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

    /* As `time.monotonic` reads it there; elsewhere, and for another clock, the function is called. */
    static CYTHON_INLINE double theatre_read(PyObject *monotonic) {
        double reading;
        PyObject *number;
    #if defined(__linux__)
        static PyObject *system = NULL;
        struct timespec now;
        if (system == NULL) {
            PyObject *module = PyImport_ImportModule("time");
            if (module == NULL) return -1.0;
            system = PyObject_GetAttrString(module, "monotonic");
            Py_DECREF(module);
            if (system == NULL) return -1.0;
        }
        if (monotonic == system && clock_gettime(CLOCK_MONOTONIC, &now) == 0)
            return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
    #endif
        number = PyObject_CallNoArgs(monotonic);
        if (number == NULL) return -1.0;
        reading = PyFloat_AsDouble(number);
        Py_DECREF(number);
        return reading;
    }
    static CYTHON_INLINE int theatre_has_context(void) {
        return PyThreadState_Get()->context != NULL;
    }
    """
    double theatre_read(object monotonic) except? -1.0
    bint theatre_has_context() noexcept
    object theatre_getcurrent()
    object theatre_switch(object target)
    unsigned long PyThread_get_thread_ident() noexcept


cdef inline unsigned long get_ident() noexcept:
    return PyThread_get_thread_ident()


cdef inline object getcurrent():
    return theatre_getcurrent()


cdef inline object switch(object target):
    return theatre_switch(target)


cdef inline double read(object monotonic) except? -1.0:
    return theatre_read(monotonic)


cdef inline bint has_context(object current) noexcept:
    return theatre_has_context()
