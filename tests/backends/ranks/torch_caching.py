"""Run by test_caching.py: gradient caching over two gloo processes against one; prints JSON."""

import itertools

import torch
from gloo import start
from torch.nn.parallel import DistributedDataParallel

from fmicl_torch import SigLIPLoss, cached_loss


class Step(torch.nn.Module):
    """An encoder with group norm, and the loss with its parameters, which learn, too."""

    def __init__(self, size, **options):
        super().__init__()
        torch.manual_seed(0)
        nn = torch.nn
        layers = nn.Linear(5, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 4)
        self.encoder, self.loss, self.size = nn.Sequential(*layers), SigLIPLoss(**options), size

    def forward(self, x, y):
        if self.size is None:
            return self.loss(self.encoder(x), self.encoder(y))
        return cached_loss(self.loss, self.encoder, x, y, mini_batch_size=self.size)


def messages_of(module):
    """A list that grows by one with each gradient bucket that DistributedDataParallel sends."""
    sent = []

    def hook(_, bucket):
        sent.append(bucket.index())
        reduced = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True)
        return reduced.get_future().then(lambda done: done.value()[0])

    module.register_comm_hook(None, hook)
    return sent


def run(rank, count):
    torch.manual_seed(1)
    x, y = torch.randn(2, 16, 5, dtype=torch.float64)
    mine = slice(0, 9) if rank == 0 else slice(9, 16)
    results = {}
    ways = [{}, {"find_unused_parameters": True}]
    for form, way, outside in itertools.product(("dense", "tiled"), ways, (False, True)):
        whole = Step(None, implementation=form, distributed=False).double()
        want = whole(x, y)
        want.backward()
        expected = torch.cat([p.grad.flatten() for p in whole.encoder.parameters()])
        step, plain = (Step(k, implementation=form, distributed=True).double() for k in (3, None))
        if outside:  # the encoder alone is wrapped, and called once a mini-batch
            step.encoder = DistributedDataParallel(step.encoder, **way)
            sent, wrapped = messages_of(step.encoder), step
        else:
            wrapped = DistributedDataParallel(step, **way)
            sent = messages_of(wrapped)
        usual = DistributedDataParallel(plain.encoder if outside else plain, **way)
        theirs = messages_of(usual)
        if outside:
            plain.encoder = usual
        for _ in range(3):
            wrapped.zero_grad()
            got = wrapped(x[mine], y[mine])
            got.backward()
            (plain if outside else usual)(x[mine], y[mine]).backward()
        grad = torch.cat([p.grad.flatten() for p in step.encoder.parameters()])
        error = (grad - expected).norm() / expected.norm()
        value = abs(got.item() / want.item() - 1.0)
        name = f"{form}-{'encoder' if outside else 'module'}-{'-'.join(way)}"
        results[name] = [value, error.item(), len(sent), len(theirs)]
    return results


if __name__ == "__main__":
    start(run, 2)
