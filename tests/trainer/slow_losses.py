"""The contrastive losses written slowly: one pair at a time, float64, straight from the definitions."""

import math

import numpy as np


def are_duplicates(i, j, image_keys, caption_keys):
    """P_ij: another pair with the same image or the same caption."""
    return i != j and (image_keys[i] == image_keys[j] or caption_keys[i] == caption_keys[j])


def unit(x):
    """x / (||x|| + 1e-8)."""
    return [value / (math.sqrt(sum(v * v for v in x)) + 1e-8) for value in x]


def slow_loss(image, text, log_scale, bias, kind, image_keys, caption_keys, duplicates):
    """The loss of raw embeddings [B, D] as a float.

    image_keys and caption_keys are sequences of B ordinary numbers; duplicates is "mask", "positive" or "ignore".
    """
    size = len(image)
    z, w = [unit(x) for x in image.tolist()], [unit(x) for x in text.tolist()]
    bias = bias if kind == "sigmoid" else 0.0
    logits = [[math.exp(log_scale) * np.dot(z[i], w[j]) + bias for j in range(size)] for i in range(size)]
    twins = [
        [j for j in range(size) if duplicates != "ignore" and are_duplicates(i, j, image_keys, caption_keys)]
        for i in range(size)
    ]
    total = 0.0
    for i in range(size):
        left_out = twins[i] if duplicates == "mask" else []
        positives = [i, *twins[i]] if duplicates == "positive" else [i]
        kept = [j for j in range(size) if j not in left_out]
        if kind == "sigmoid":
            for j in kept:
                label = 1 if j in positives else -1
                total += math.log1p(math.exp(-label * logits[i][j]))
            continue
        # The relation is symmetric, so row i and column i leave out and aim at the same indices.
        for line in ([logits[i][j] for j in range(size)], [logits[j][i] for j in range(size)]):
            partition = math.log(sum(math.exp(line[j]) for j in kept))
            total += 0.5 * (partition - sum(line[j] for j in positives) / len(positives))
    return total / size


def slow_gradient(image, text, log_scale, bias, *rest, step=1e-6):
    """Central differences of `slow_loss` with respect to image, text, log_scale and bias."""
    arguments = [np.array(x, np.float64) for x in (image, text, log_scale, bias)]
    gradients = [np.zeros_like(x) for x in arguments]
    for which, argument in enumerate(arguments):
        for place in np.ndindex(argument.shape):
            values = []
            for sign in (1, -1):
                moved = [x.copy() for x in arguments]
                moved[which][place] += sign * step
                values.append(slow_loss(*moved[:2], float(moved[2]), float(moved[3]), *rest))
            gradients[which][place] = (values[0] - values[1]) / (2 * step)
    return gradients
