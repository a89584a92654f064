/* Activation functions: a plain enum, which the kernels of a device know, too. */
#ifndef LP_MODEL_ACTIVATION_H
#define LP_MODEL_ACTIVATION_H

typedef enum { LP_ACT_GELU_TANH, LP_ACT_GELU_ERF, LP_ACT_SILU } lp_activation;

#endif
