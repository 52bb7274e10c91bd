cdef extern from *:
    """
    #include "structmember.h"

    /* Where a field is, for the few types that one module meets: a polymorphic inline cache (U. Hoelzle, C. Chambers,
       D. Ungar, ECOOP 1991). A field is read in 3 ns then, instead of 25. */
    #define THEATRE_KNOWN 4
    typedef struct {
        PyTypeObject *type[THEATRE_KNOWN];
        Py_ssize_t offset[THEATRE_KNOWN];
    } theatre_places;

    static void theatre_remember(theatre_places *places, PyTypeObject *type, PyObject *descriptor) {
        PyMemberDef *member;
        int i;
        if (type->tp_getattro != PyObject_GenericGetAttr) return;
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return;
        member = ((PyMemberDescrObject *) descriptor)->d_member;
        if (member->type != T_OBJECT_EX) return;
        if (!PyType_IsSubtype(type, ((PyDescrObject *) descriptor)->d_type)) return;
        for (i = 0; i < THEATRE_KNOWN; i++) {
            if (places->type[i] == type) return;
            if (places->type[i] == NULL) {
                Py_INCREF(type);  /* for good: its address must never be that of another type */
                places->offset[i] = member->offset;
                places->type[i] = type;
                return;
            }
        }
    }
    static PyObject *theatre_find(theatre_places *places, PyObject *holder, const char *name) {
        PyObject *descriptor = PyObject_GetAttrString((PyObject *) Py_TYPE(holder), name);
        if (descriptor == NULL) {
            PyErr_Clear();
        } else {
            theatre_remember(places, Py_TYPE(holder), descriptor);
            Py_DECREF(descriptor);
        }
        return PyObject_GetAttrString(holder, name);
    }
    static CYTHON_INLINE PyObject *theatre_field(theatre_places *places, PyObject *holder, const char *name) {
        PyTypeObject *type = Py_TYPE(holder);
        int i;
        for (i = 0; i < THEATRE_KNOWN; i++) {
            if (places->type[i] == type) {
                PyObject *value = *(PyObject **) ((char *) holder + places->offset[i]);
                if (value == NULL) break;
                Py_INCREF(value);
                return value;
            }
        }
        return theatre_find(places, holder, name);
    }
    #define THEATRE_FIELD(NAME) \
        static CYTHON_INLINE PyObject *theatre_##NAME##_of(PyObject *holder) { \
            static theatre_places places; \
            return theatre_field(&places, holder, #NAME); \
        }
    THEATRE_FIELD(ref)
    THEATRE_FIELD(body)
    THEATRE_FIELD(sender)
    THEATRE_FIELD(headers)
    THEATRE_FIELD(seq)
    THEATRE_FIELD(epoch)
    THEATRE_FIELD(timeout)
    THEATRE_FIELD(type)
    THEATRE_FIELD(id)
    THEATRE_FIELD(messages)
    THEATRE_FIELD(unmade)
    """
    object ref_of "theatre_ref_of" (object holder)
    object body_of "theatre_body_of" (object holder)
    object sender_of "theatre_sender_of" (object holder)
    object headers_of "theatre_headers_of" (object holder)
    object seq_of "theatre_seq_of" (object holder)
    object epoch_of "theatre_epoch_of" (object holder)
    object timeout_of "theatre_timeout_of" (object holder)
    object type_of "theatre_type_of" (object holder)
    object id_of "theatre_id_of" (object holder)
    object messages_of "theatre_messages_of" (object holder)
    object unmade_of "theatre_unmade_of" (object holder)
    bint is_ascii "PyUnicode_IS_ASCII" (object text) noexcept
