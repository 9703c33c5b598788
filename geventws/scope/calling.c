/* The compiled twin of `calling.py`: calls that go to the native operation outside a scope, to the cooperative one inside.

   The very argument vector goes on untouched, which leaves of the dispatch little more than to ask who is running. Which
   operations these are, and how names are taken over, is none of this file's business.

   Follows PEP 590 (vectorcall) and greenlet's C interface, greenlet.h. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "greenlet/greenlet.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *native;
    PyObject *cooperative;
    PyObject *dict;
    PyObject *weakrefs;
} Dispatcher;

static PyObject *mark;         /* The key of `membership.MARK`. */
static PyObject *shared_name;  /* "spawn_tree_locals" */
static PyObject *name_name;    /* "__qualname__" */
static PyObject *update_wrapper;

/* 1 inside a scope, 0 outside, -1 with an exception. */
static int
is_inside(void)
{
    PyGreenlet *current = PyGreenlet_GetCurrent();
    if (current == NULL)
        return -1;
    PyObject *shared = PyObject_GetAttr((PyObject *)current, shared_name);
    int inside = 0;
    if (shared != NULL) {
        if (PyDict_Check(shared) && PyDict_GET_SIZE(shared))
            inside = PyDict_Contains(shared, mark);
        Py_DECREF(shared);
    }
    else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        /* What gevent gives a greenlet when it spawns its first one: asking for it is faster then. */
        PyErr_Clear();
        shared = PyDict_New();
        if (shared == NULL || PyObject_SetAttr((PyObject *)current, shared_name, shared) < 0)
            inside = -1;
        Py_XDECREF(shared);
    }
    else {
        inside = -1;
    }
    Py_DECREF(current);
    return inside;
}

static PyObject *
dispatcher_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Dispatcher *self = (Dispatcher *)callable;
    int inside = is_inside();
    if (inside < 0)
        return NULL;
    /* An operation may take as long as it likes, and what dispatches to it may be taken away meanwhile. */
    PyObject *operation = inside ? self->cooperative : self->native;
    Py_INCREF(operation);
    PyObject *result = PyObject_Vectorcall(operation, args, nargsf, names);
    Py_DECREF(operation);
    return result;
}

static PyObject *
dispatcher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *native, *cooperative;
    int keywords; /* Matters to the twin only: here they always go through. */
    static char *names[] = {"native", "cooperative", "keywords", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|p", names, &native, &cooperative, &keywords))
        return NULL;
    Dispatcher *self = (Dispatcher *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = dispatcher_call;
    self->native = Py_NewRef(native);
    self->cooperative = Py_NewRef(cooperative);
    PyObject *told = PyObject_CallFunctionObjArgs(update_wrapper, self, native, NULL);
    if (told == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(told);
    return (PyObject *)self;
}

static int
dispatcher_traverse(Dispatcher *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->native);
    Py_VISIT(self->cooperative);
    Py_VISIT(self->dict);
    return 0;
}

static int
dispatcher_clear(Dispatcher *self)
{
    Py_CLEAR(self->native);
    Py_CLEAR(self->cooperative);
    Py_CLEAR(self->dict);
    return 0;
}

static void
dispatcher_dealloc(Dispatcher *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    dispatcher_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
dispatcher_repr(Dispatcher *self)
{
    return PyObject_Repr(self->native);
}

/* By name, as functions are: pickled and copied. */
static PyObject *
dispatcher_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttr(self, name_name);
}

/* A builtin in the body of a class is no method of it, */
static PyObject *
function_get(PyObject *self, PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(type))
{
    return Py_NewRef(self);
}

/* and what is found in a class of its own is. */
static PyObject *
method_get(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    if (object == NULL || object == Py_None)
        return Py_NewRef(self);
    return PyMethod_New(self, object);
}

static PyMethodDef dispatcher_methods[] = {
    {"__reduce__", dispatcher_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef dispatcher_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(Dispatcher, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Dispatcher, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Dispatcher, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef dispatcher_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define COMMON_SLOTS \
    {Py_tp_new, dispatcher_new}, \
    {Py_tp_call, PyVectorcall_Call}, \
    {Py_tp_repr, dispatcher_repr}, \
    {Py_tp_traverse, dispatcher_traverse}, \
    {Py_tp_clear, dispatcher_clear}, \
    {Py_tp_dealloc, dispatcher_dealloc}, \
    {Py_tp_methods, dispatcher_methods}, \
    {Py_tp_members, dispatcher_members}, \
    {Py_tp_getset, dispatcher_getset}

#define COMMON_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL)

static PyType_Slot function_slots[] = {COMMON_SLOTS, {Py_tp_descr_get, function_get}, {0, NULL}};
static PyType_Slot method_slots[] = {COMMON_SLOTS, {Py_tp_descr_get, method_get}, {0, NULL}};

static PyType_Spec function_spec = {
    "geventws.scope.calling.function", sizeof(Dispatcher), 0, COMMON_FLAGS, function_slots,
};
static PyType_Spec method_spec = {
    "geventws.scope.calling.method", sizeof(Dispatcher), 0, COMMON_FLAGS | Py_TPFLAGS_METHOD_DESCRIPTOR, method_slots,
};

static int
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL)
        return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}

/* Where it is found, so that it can be pickled. A builtin also tells its module, as native ones do. */
static PyObject *
named(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *value, *where, *name;
    if (!PyArg_ParseTuple(args, "OUU", &value, &where, &name))
        return NULL;
    if (Py_TYPE(value)->tp_dealloc != (destructor)dispatcher_dealloc)
        Py_RETURN_NONE;
    if (PyObject_SetAttrString(value, "__module__", where) < 0 || PyObject_SetAttr(value, name_name, name) < 0)
        return NULL;
    if (Py_TYPE(value)->tp_descr_get == function_get) {
        PyObject *owner = PyImport_GetModule(where);
        int set = owner == NULL ? -1 : PyObject_SetAttrString(value, "__self__", owner);
        Py_XDECREF(owner);
        if (set < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"named", named, METH_VARARGS, "Say where a dispatching call is found."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "calling", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC
PyInit_calling(void)
{
    PyGreenlet_Import();
    if (_PyGreenlet_API == NULL)
        return NULL;
    mark = PyUnicode_InternFromString("geventws.scope");
    shared_name = PyUnicode_InternFromString("spawn_tree_locals");
    name_name = PyUnicode_InternFromString("__qualname__");
    PyObject *functools = PyImport_ImportModule("functools");
    if (functools == NULL)
        return NULL;
    update_wrapper = PyObject_GetAttrString(functools, "update_wrapper");
    Py_DECREF(functools);
    if (mark == NULL || shared_name == NULL || name_name == NULL || update_wrapper == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (add_type(module, &function_spec) < 0 || add_type(module, &method_spec) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
