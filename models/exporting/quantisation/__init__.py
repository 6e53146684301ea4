"""int8 for CPUs: post-training quantisation that keeps the labels (Jacob et al., CVPR 2018, with what was learnt since).

The steps, in order, each in its file:

1. ``maps``: which tensors of a graph are kept in 8 bits;
2. ``statistics``: values and second moments of these tensors over calibration frames;
3. ``equalisation``: channels that are added along a residual stream get similar ranges;
4. ``ranges``: the range of each tensor that loses least;
5. ``rounding``: weights rounded so that the errors of one cancel those of another, biases corrected;
6. ``qdq``: the graph with QuantizeLinear and DequantizeLinear, which ONNX Runtime turns into int8 operators;
7. ``last_layers``: the float convolutions before the outputs as products of integers.

``recipe`` runs them all.
"""
