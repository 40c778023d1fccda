# SPDX-License-Identifier: Apache-2.0
"""The loss curve of examples/moe_lm, reproduced by the same model in plain PyTorch: dense, one process, automatic gradients."""

import json
import math
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

import flexep

_MOE_LM = pathlib.Path(flexep.__file__).parents[2] / "examples/moe_lm/moe_lm"
_TEXT = pathlib.Path(__file__).parents[2] / "docs/performance.md"
NUM_STEPS, BATCH, CONTEXT, EMBEDDING = 50, 96, 32, 16
HIDDEN, FFN, NUM_EXPERTS, NUM_TOPK, NUM_BLOCKS = 48, 64, 8, 2, 2
SEED, PEAK_RATE, AUX_COEFF, EXPERT_DEVIATION = 3, 3e-2, 0.1, 0.05


def mix(x):
    """One step of SplitMix64, on uint64 arrays."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def stream(seed, name):
    key = mix(seed)
    for character in name.encode():
        key = mix(key ^ np.uint64(character))
    return key


def uniform(key, indices):
    """In [0, 1)."""
    with np.errstate(over="ignore"):
        return (mix(key + np.asarray(indices, dtype=np.uint64)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def drawn(key, shape, deviation):
    values = (2 * uniform(key, np.arange(math.prod(shape))) - 1) * math.sqrt(3) * deviation
    return torch.from_numpy(values.astype(np.float32)).reshape(shape).requires_grad_()


def constant(value, *shape):
    return torch.full(shape, value).requires_grad_()


class Block:
    """x + MoE(RMSNorm(x)), every expert computed for every sample."""

    def __init__(self, index):
        seed = mix(stream(SEED, f"block{index}"))

        def weights(parameter, *shape):
            return drawn(mix(seed ^ mix(parameter)), shape, EXPERT_DEVIATION)

        self.gain = constant(1.0, HIDDEN)
        self.router = weights(1, NUM_EXPERTS, HIDDEN)
        self.fc1 = weights(2, NUM_EXPERTS, 2 * FFN, HIDDEN)
        self.fc2 = weights(3, NUM_EXPERTS, HIDDEN, FFN)

    def __call__(self, hidden):
        x = rms_norm(hidden, self.gain)
        logits = x @ self.router.t()
        chosen, topk_idx = logits.topk(NUM_TOPK)
        probs = torch.zeros_like(logits).scatter(1, topk_idx, chosen.softmax(dim=1))
        load = torch.zeros(NUM_EXPERTS).index_add(0, topk_idx.flatten(), torch.ones(topk_idx.numel()))
        shares = logits.softmax(dim=1).mean(dim=0)
        aux_loss = AUX_COEFF * NUM_EXPERTS * (shares * load / load.sum()).sum()
        gate, up = (x @ self.fc1.transpose(1, 2)).chunk(2, dim=2)
        activated = torch.nn.functional.silu(gate) * up * probs.t()[:, :, None]
        return hidden + (activated @ self.fc2.transpose(1, 2)).sum(dim=0), aux_loss


def rms_norm(x, gain):
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * gain


class Model:
    def __init__(self):
        def weights(name, *shape, inputs):
            return drawn(stream(SEED, name), shape, 1 / math.sqrt(inputs))

        self.table = weights("embedding.table", 256, EMBEDDING, inputs=1)
        width = CONTEXT * EMBEDDING
        self.input = weights("input.weight", width, HIDDEN, inputs=width), constant(0.0, HIDDEN)
        self.blocks = [Block(index) for index in range(NUM_BLOCKS)]
        self.gain = constant(1.0, HIDDEN)
        self.output = weights("output.weight", HIDDEN, 256, inputs=HIDDEN), constant(0.0, 256)

    def parameters(self):
        of_blocks = [p for block in self.blocks for p in (block.gain, block.router, block.fc1, block.fc2)]
        return [self.table, *self.input, *of_blocks, self.gain, *self.output]

    def __call__(self, contexts):
        hidden = self.table[contexts].flatten(1) @ self.input[0] + self.input[1]
        aux_loss = 0.0
        for block in self.blocks:
            hidden, loss = block(hidden)
            aux_loss = aux_loss + loss
        return rms_norm(hidden, self.gain) @ self.output[0] + self.output[1], aux_loss


def batch_of(text, step):
    """Sample i comes from the i-th of BATCH strips of the text; before its start there are zeros."""
    padded = np.concatenate([np.zeros(CONTEXT, dtype=np.uint8), text])
    samples = np.arange(BATCH)
    begin, end = len(text) * samples // BATCH, len(text) * (samples + 1) // BATCH
    place = uniform(stream(SEED, "batch"), step * BATCH + samples)
    position = begin + (place * (end - begin)).astype(np.int64)
    contexts = padded[position[:, None] + np.arange(CONTEXT)]
    return torch.from_numpy(contexts).long(), torch.from_numpy(text[position]).long()


def rate_of(step):
    rise = min(1.0, (step + 1) / 150)
    return PEAK_RATE * rise * rise * 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))


def loss_curve():
    text = np.fromfile(_TEXT, dtype=np.uint8)
    assert len(text) < 1 << 16  # one block, whose last sixteenth is held out
    text = text[: len(text) - len(text) // 16]
    model = Model()
    groups = [[p for p in model.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.05}, {"params": groups[1], "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        eps=1e-7,
    )
    losses = []
    for step in range(NUM_STEPS):
        contexts, targets = batch_of(text, step)
        logits, aux_loss = model(contexts)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        losses.append(loss.item() / math.log(2))
        optimizer.zero_grad()
        (loss + aux_loss).backward()
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, 1 / norm)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
    return losses


def test_loss_curve_is_that_of_the_example(tmp_path):
    torch.set_num_threads(1)  # its matrices are small
    if not _MOE_LM.exists():
        pytest.skip("examples/moe_lm is not built")
    report = tmp_path / "report.json"
    options = {
        **{"text": _TEXT, "json": report, "ranks": 2, "transport": "in_process", "seed": SEED, "steps": NUM_STEPS},
        **{"batch": BATCH, "heldout-samples": 64, "blocks": NUM_BLOCKS, "embedding-dim": EMBEDDING},
        **{"learning-rate": PEAK_RATE, "hidden-size": HIDDEN, "num-moe-experts": NUM_EXPERTS},
        **{"moe-ffn-hidden-size": FFN, "moe-router-topk": NUM_TOPK, "moe-aux-loss-coeff": AUX_COEFF},
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    subprocess.run([_MOE_LM, *words], check=True, capture_output=True, timeout=300)
    expected = json.loads(report.read_text())["train_loss"]
    actual = loss_curve()
    assert len(expected) == NUM_STEPS and expected[-1] < expected[0] - 0.1
    assert max(abs(a - b) for a, b in zip(actual, expected, strict=True)) < 1e-3
