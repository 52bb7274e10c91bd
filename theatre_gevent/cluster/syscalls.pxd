cdef extern from *:
    """
    #if defined(__linux__) || defined(__APPLE__)
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* Python ignores the signal anyhow */
    #endif

    static PyObject *theatre_receive(PyObject *sock, int number, Py_ssize_t at_most) {
        static char buffer[64 * 1024];  /* as whoever calls this has the interpreter for itself */
        ssize_t size;
        if (at_most > (Py_ssize_t) sizeof buffer) at_most = sizeof buffer;
        size = recv(number, buffer, at_most, MSG_DONTWAIT);
        return size < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyBytes_FromStringAndSize(buffer, size);
    }
    static Py_ssize_t theatre_send(PyObject *sock, int number, PyObject *data) {
        ssize_t size = send(number, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (size < 0) PyErr_SetFromErrno(PyExc_OSError);
        return size;
    }
    #else
    static PyObject *theatre_receive(PyObject *sock, int number, Py_ssize_t at_most) {
        return PyObject_CallMethod(sock, "recv", "n", at_most);
    }
    static Py_ssize_t theatre_send(PyObject *sock, int number, PyObject *data) {
        PyObject *taken = PyObject_CallMethod(sock, "send", "O", data);
        Py_ssize_t size = taken == NULL ? -1 : PyLong_AsSsize_t(taken);
        Py_XDECREF(taken);
        return size;
    }
    #endif
    """
    bytes receive "theatre_receive" (object sock, int number, Py_ssize_t at_most)
    Py_ssize_t send "theatre_send" (object sock, int number, bytes data) except -1
