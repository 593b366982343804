/* What a unit does for the others, by flat arguments (products.pyx, quantized.pyx, lanes.pyx, pointwise.pyx). */
#ifndef FASTRNN_EXPORTS_H
#define FASTRNN_EXPORTS_H

#include "simd.h"

#ifdef FASTRNN_REAL_BITS

void FASTRNN_LOCAL(multiply_tile)(int rows, Py_ssize_t width, const real **start, Py_ssize_t start_at, const real **x,
                                  Py_ssize_t x_depth, const real *x_panel, const real **h, Py_ssize_t h_first,
                                  Py_ssize_t h_last, const real *h_panel, real *out, Py_ssize_t out_stride);
void FASTRNN_LOCAL(multiply_blocks)(Py_ssize_t rows, Py_ssize_t width, const real **start, Py_ssize_t start_at,
                                    const real **x, Py_ssize_t x_depth, const real *x_panel, const real **h,
                                    Py_ssize_t h_depth, const real *h_panel, real *out, Py_ssize_t out_stride);
void FASTRNN_LOCAL(multiply_words)(int precision, int native, int rows, Py_ssize_t width, const real **start,
                                   const real **x, Py_ssize_t x_words, const real *x_panel, const real **h,
                                   Py_ssize_t h_words, const real *h_panel, real *out, Py_ssize_t out_stride);
void FASTRNN_LOCAL(multiply_rows_in_lanes)(Py_ssize_t depth, Py_ssize_t columns, const real *weights, const real *bias,
                                           int activation, Py_ssize_t n_rows, const real *x, real *y, real *scratch);
size_t FASTRNN_LOCAL(scratch_in_lanes)(const void *layer, const void *shapes, Py_ssize_t rows);
void FASTRNN_LOCAL(run_in_lanes)(const void *layer, const void *shapes, char **data, Py_ssize_t rows, char *scratch);
void FASTRNN_LOCAL(activate_span)(int activation, const real *x, real *y, Py_ssize_t n);
void FASTRNN_LOCAL(activate_rarely)(int activation, real *numbers);

#endif
#endif
