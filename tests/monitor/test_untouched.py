"""Training never notices the monitor: weights are bit-equal with and without it, whatever the sampler and the training loop use."""
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from biasgen import BiasMonitor, Schedule, TreeGrammar

GRAMMAR, SCHEDULE = TreeGrammar.random(), Schedule.linear()
ROWS = GRAMMAR.sample(600, seed=0)
SETS = {"train": ROWS[:150], "heldout": ROWS[150:]}
STEPS, EVERY = 24, 4      # six evaluations


class Net(nn.Module):
    """Logits of one-hot rows, with everything whose state an evaluation could disturb."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(96, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 96))

    def forward(self, x):
        return self.body(x).unflatten(1, (16, 6))


def sampler(model, n, *, seed, offset=0):
    """Draws from every global generator, on purpose; the model's forward is part of it."""
    assert not torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not any(m.training for m in model.modules())
    x = torch.randn(n, 16, 6) + float(np.random.rand()) + random.random()
    return model(x).argmax(-1).numpy().astype(np.int8)


def careless(model, n, *, generator):
    """Its own autocast region, whose cache of cast weights must not reach training."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(torch.randn(n, 16, 6) + torch.rand(1, generator=generator)).float().argmax(-1).numpy().astype(np.int8)


def denoiser(model, x_t, level):
    torch.rand(3)
    return model(x_t.float()).softmax(-1)


def train(make_monitor, *, compiled=False, autocast=False, average=False):
    """STEPS optimizer steps; returns weights and buffers, of the average too, and the monitor."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    net = Net()
    net.body[3].p = 0.3
    backend = "aot_eager" if " " in torch.__file__ else "inductor"     # inductor does not quote paths when it calls the compiler
    model = torch.compile(net, backend=backend) if compiled else net
    ema = copy.deepcopy(net).eval() if average else None
    optimizer = torch.optim.Adam(net.parameters())
    monitor = make_monitor() if make_monitor else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):   # one region around the loop: its cache outlives a step
        for step in range(1, STEPS + 1):
            tokens = SETS["train"][np.random.randint(0, 150, 32)]
            x0 = nn.functional.one_hot(torch.from_numpy(tokens).long(), 6).float()
            logits = model(x0 + torch.randn_like(x0) * random.random())
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), torch.from_numpy(tokens).long().flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.clear_autocast_cache()     # the weights have changed: what a loop in one region must do itself
            if ema is not None:
                with torch.no_grad():
                    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 0.1)
            if monitor:
                monitor.step(step, model if ema is None else ema, train_loss=loss.item())
                assert net.training
                assert all(m.training for m in net.modules())
                assert ema is None or not ema.training
    state = [*net.state_dict().values(), *(ema.state_dict().values() if ema is not None else ())]
    return torch.cat([value.detach().flatten().double() for value in state]), monitor


WAYS = {
    "global generators": ({"sampler": sampler}, {}),
    "generator=, own autocast": ({"sampler": careless}, {"autocast": True}),
    "probe": ({"denoiser": denoiser, "schedule": SCHEDULE, "probe_rows": 100}, {"autocast": True}),
    "both, average of weights": ({"sampler": sampler, "denoiser": denoiser, "schedule": SCHEDULE, "probe_rows": 50}, {"average": True}),
    "autocast around the loop": ({"sampler": sampler}, {"autocast": True}),
    "torch.compile": ({"sampler": sampler}, {"compiled": True}),     # in batches of another size than training's
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")     # of torch.compile's own modules
@pytest.mark.parametrize("way", WAYS)
def test_weights_are_bit_equal(way):
    measured, loop = WAYS[way]
    plain, _ = train(None, **loop)
    monitored, monitor = train(lambda: BiasMonitor(**SETS, **measured, n_samples=100, every=EVERY), **loop)
    assert torch.equal(plain, monitored)
    assert len(monitor.history) >= 6
    for record in monitor.history:
        for name in monitor.watched:
            result = record.metrics[name]
            assert all(np.isfinite([result.value, *result.ci, result.p_value, record.scalars["train_loss"]]))


def test_a_second_model_is_protected_too():
    models = [Net(), Net()]
    monitor = BiasMonitor(train=ROWS[:150], twin_train=ROWS[150:300], heldout=ROWS[300:], sampler=sampler, n_samples=50, every=1)
    monitor.step(1, *models)
    assert all(m.training for model in models for m in model.modules())


def test_modes_and_generators_come_back_after_an_error():
    def broken(model, n, *, seed, offset=0):
        torch.randn(3)
        raise RuntimeError("no samples today")

    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()     # a mode of its own, which must come back
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no samples today"):
        BiasMonitor(**SETS, sampler=broken, every=1).step(1, model)
    assert model.training
    assert not model[1].training
    assert torch.equal(torch.get_rng_state(), state)
