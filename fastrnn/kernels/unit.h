/* What makes one object of a kernel unit: setup.py compiles each for every instruction set and number type, and links all
 * objects into `fastrnn._core`.
 *
 * Cython takes a .pyx for a Python module. A unit is none: it holds functions without Python objects, and with its
 * initialisation out of sight the compiler drops all that Cython writes for a module.
 */
#ifndef FASTRNN_UNIT_H
#define FASTRNN_UNIT_H

#include <Python.h>

#undef PyMODINIT_FUNC
#define PyMODINIT_FUNC static __attribute__((unused)) PyObject *

/* The name of a function that other units call, with what its build is called: multiply_v4_f32. */
#define FASTRNN_JOIN_NAMES_(name, build) name##build
#define FASTRNN_JOIN_NAMES(name, build) FASTRNN_JOIN_NAMES_(name, build)
#define FASTRNN_LOCAL(name) FASTRNN_JOIN_NAMES(name, FASTRNN_BUILD)

#endif
