"""The arithmetic of single operations, against float64."""

from math import erf

import numpy as np
import pytest
import tensorflow as tf

from protrna_cli.model import layers


@pytest.mark.parametrize("length", [7, 130, 700])
def test_the_softmax_of_bfloat16_loses_nothing_by_being_narrow(length: int) -> None:
    """Against float64: no further from it than one rounding to bfloat16, also where keys are masked."""
    if not layers.softmax_adds_in_float32():
        pytest.skip("the softmax of bfloat16 adds up in bfloat16 here, so that it is not used")
    rng = np.random.default_rng(length)
    scores = tf.cast(rng.normal(0, 3, (2, 4, length, length)), tf.bfloat16)
    bias = np.zeros((2, 1, 1, length), np.float32)
    bias[1, ..., length // 2 :] = layers.MASKED
    softmax = tf.function(lambda scores, narrow: layers.masked_softmax(scores, tf.constant(bias), narrow))
    exact = np.exp(tf.cast(scores, tf.float64).numpy()) * (bias == 0)
    exact /= exact.sum(axis=-1, keepdims=True)
    for narrow in (True, False):
        found = tf.cast(tf.cast(softmax(scores, narrow), tf.bfloat16), tf.float64).numpy()
        np.testing.assert_allclose(found, exact, rtol=2**-8, atol=1e-30)
    assert softmax(scores, True).dtype == tf.bfloat16


def test_the_gelu_of_bfloat16_is_the_exact_one() -> None:
    """Against float64: no further from it than one rounding, or an `erf` that is 2e-7 off."""
    x = tf.cast(np.linspace(-12, 12, 4001)[None], tf.bfloat16)
    bias = np.float32(0.25)
    exact = [v * 0.5 * (1 + erf(v / 2**0.5)) for v in tf.cast(x, tf.float64).numpy()[0] + bias]
    found = layers.biased_gelu(x, tf.fill((4001,), bias))
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(found, tf.float64).numpy()[0], exact, rtol=2**-8, atol=2e-6)
