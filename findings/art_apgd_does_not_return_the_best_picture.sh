#!/usr/bin/env bash
# Seen with adversarial-robustness-toolbox 1.20.1 (torch 2.13.0, numpy 2.4.6, Python 3.11):
# APGD returns, by its paper (arXiv 2003.01690, algorithm 1), the input with the highest loss that it found.
# AutoProjectedGradientDescent keeps that input, but does not return it. It returns the last input that it tried, if the
# model misclassifies that one, and otherwise the random input from which it started. So it may count an input as robust
# although it tried a neighbor that is misclassified; and losses on what it returns are those of random noise wherever
# the attack failed. Accuracies are nearly those of the paper's attack.
#
# Output seen:
#     misclassified: 52 of the returned inputs; for 53 inputs, one that was tried
#     returned for the other 48: their random starts
#     their mean loss: 0.739; the highest that was tried: 0.868
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 packaging # ART imports packaging undeclared
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch.nn.functional import cross_entropy


class Waves(torch.nn.Module):
    """Logits (N, 3) of inputs (N, 8) in [0, 1]. It remembers its inputs."""

    def __init__(self):
        super().__init__()
        self.inward, self.outward, self.seen = torch.nn.Linear(8, 64), torch.nn.Linear(64, 3), []
        self.inward.weight.data *= 20

    def forward(self, inputs):
        self.seen.append(inputs.detach())
        return self.outward(self.inward(inputs).sin())


torch.manual_seed(0)
np.random.seed(0)
model = Waves().requires_grad_(False)
inputs = torch.rand(100, 8)
labels = model(inputs).argmax(dim=1)
classifier = PyTorchClassifier(model, None, (8,), 3, clip_values=(0, 1), device_type="cpu")
attack = AutoProjectedGradientDescent(
    classifier, eps=0.02, eps_step=0.04, max_iter=5, nb_random_init=1, batch_size=100, loss_type="cross_entropy",
    verbose=False,
)
model.seen.clear()
returned = torch.from_numpy(attack.generate(inputs.numpy(), labels.numpy()))
_, start, *_ = tried = model.seen.copy()  # the first are the inputs themselves
fooled = model(returned).argmax(dim=1) != labels
ever_fooled = torch.stack([model(each).argmax(dim=1) != labels for each in tried]).any(dim=0)
losses = cross_entropy(model(returned), labels, reduction="none")[~fooled]
highest = torch.stack([cross_entropy(model(each), labels, reduction="none") for each in tried]).amax(dim=0)[~fooled]
random = torch.equal(returned[~fooled], start[~fooled])
print(f"misclassified: {fooled.sum()} of the returned inputs; for {ever_fooled.sum()} inputs, one that was tried")
print(f"returned for the other {(~fooled).sum()}: {'their random starts' if random else 'something else'}")
print(f"their mean loss: {losses.mean():.3f}; the highest that was tried: {highest.mean():.3f}")
assert random and fooled.sum() < ever_fooled.sum() and losses.mean() < highest.mean() - 0.1
PYTHON
