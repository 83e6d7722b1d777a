"""What a PyTorch program holds of a loss: never another one, in any thread, copy or process."""

import subprocess
import sys
import textwrap
import threading
from functools import partial

import numpy as np
import pytest

from fmicl_core import FMICL, Gaussian, JensenShannon, Tsallis

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")
from fmicl_torch import registry  # noqa: E402

both = pytest.mark.parametrize("implementation", ["dense", "tiled"])


def views(n=24, d=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compiled(step):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return torch.compile(step, fullgraph=True, backend="aot_eager")


def test_a_text_says_what_it_means_in_any_process():
    for objective in (FMICL("js"), FMICL(Tsallis(2.5), Gaussian(0.125, 3e-7), normalize=False)):
        text = registry.register(objective.pairwise)
        del registry.KNOWN[text]
        assert registry.pairwise_of(text) == objective.pairwise


def test_a_text_runs_nothing():
    dropped = "Pairwise(3, divergence=KL(), similarity=Gaussian(), normalize=True)"
    texts = "__import__('os').getcwd()", "Pairwise(divergence=open('x'))", "KL()", "1 +", "#"
    for text in (*texts, dropped):
        with pytest.raises(ValueError, match=r"`divergence`. Expected what this process knows"):
            registry.pairwise_of(text)


def test_losses_made_by_many_threads_keep_their_own_settings():
    made, start = {}, threading.Barrier(6)

    def make(thread):
        start.wait()
        made[thread] = [
            (sigma2, fmicl_torch.FMICLLoss(similarity=Gaussian(sigma2)))
            for sigma2 in np.linspace(0.1 + 0.01 * thread, 2.0, 40).tolist()
        ]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=make, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    for sigma2, loss in (pair for pairs in made.values() for pair in pairs):
        assert registry.pairwise_of(loss._text).similarity.sigma2 == sigma2


def test_classes_of_one_name_are_told_apart(kl_by):
    """As where a notebook defines a divergence anew."""
    x, y = views()

    def redefined(power):
        class Own(JensenShannon):
            def excess(self, L, ops):
                return ops.exp(power * L)

        return Own()

    for implementation in ("dense", "tiled"):
        losses = [
            fmicl_torch.FMICLLoss(divergence=redefined(p), implementation=implementation)
            for p in (1.0, 2.0)
        ]
        assert losses[0](x, y).item() != pytest.approx(losses[1](x, y).item())
    plain = [fmicl_torch.fmicl_loss(x, y, divergence=kl_by(f), implementation="tiled")
             for f in (lambda L, ops: ops.exp(L), lambda L, ops: ops.exp(0.5 * L))]  # fmt: skip
    assert plain[0].item() != pytest.approx(plain[1].item())


RUN_PROGRAM = """
    import sys, torch, fmicl_torch
    for divergence in ("pearson", "vlc"):  # this process numbers its losses otherwise
        fmicl_torch.FMICLLoss(divergence=divergence)
    x, y = torch.load(sys.argv[2], weights_only=True)
    print(repr(torch.export.load(sys.argv[1]).module()(x, y).item()))
"""


@pytest.mark.long
def test_an_exported_loss_is_the_same_in_another_process(tmp_path, cubic):
    class Model(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.loss = fmicl_torch.FMICLLoss(implementation="tiled", alpha=12.5, **options)

        def forward(self, x, y):
            return self.loss(x, y)

    x, y = views()
    torch.save((x, y), tmp_path / "views.pt")

    def run(name, model):
        torch.export.save(torch.export.export(model, (x, y)), tmp_path / f"{name}.pt2")
        program = textwrap.dedent(RUN_PROGRAM)
        command = [sys.executable, "-c", program, tmp_path / f"{name}.pt2", tmp_path / "views.pt"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    model = Model(divergence="js", similarity=Gaussian(0.3))
    done = run("js", model)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) == model(x, y).item()
    done = run("own", Model(divergence=cubic))
    assert done.returncode != 0
    assert "InvalidArgument: Invalid value for argument `divergence`" in done.stderr
    assert "Cubic()" in done.stderr


@both
def test_new_losses_and_another_alpha_compile_nothing_anew(implementation):
    x, y = views()
    step = compiled(lambda x, y, alpha: fmicl_torch.fmicl_loss(
        x, y, divergence="js", alpha=alpha, implementation=implementation))  # fmt: skip
    eager = lambda alpha: fmicl_torch.fmicl_loss(x, y, divergence="js", alpha=alpha)  # noqa: E731
    for i in range(12):
        fmicl_torch.FMICLLoss(similarity=Gaussian(0.5 + 0.001 * i))
        alpha = 1.0 + 0.5 * i
        assert step(x, y, alpha).item() == pytest.approx(eager(alpha).item(), rel=1e-12)
    assert graphs() <= 2  # the first number is a constant, every other one a symbol
    for i in range(12):
        alpha = torch.tensor(1.0 + 0.5 * i)
        assert step(x, y, alpha).item() == pytest.approx(eager(alpha).item(), rel=1e-12)
    assert graphs() <= 3
    texts = len(registry.KNOWN)
    for i in range(5):
        eager(100.0 + i)
    assert len(registry.KNOWN) == texts


@both
def test_alpha_of_the_module_may_change(implementation):
    x, y = views()
    loss = fmicl_torch.FMICLLoss(divergence="js", alpha=2, implementation=implementation)
    step = compiled(loss)
    eager = lambda alpha: fmicl_torch.fmicl_loss(x, y, divergence="js", alpha=alpha).item()  # noqa: E731
    for alpha in (2.0, 3.0, 4.5, 6.0, 7.5):
        loss.alpha = alpha
        assert f"alpha={alpha}," in repr(loss)
        assert loss.objective.alpha == alpha
        assert loss(x, y).item() == pytest.approx(eager(alpha), rel=1e-12)
        assert step(x, y).item() == pytest.approx(eager(alpha), rel=1e-12)
    assert graphs() <= 2
    loss.alpha = torch.tensor(9.0)
    loss.alpha.fill_(11.0)
    assert loss(x, y).item() == pytest.approx(eager(11.0), rel=1e-12)
    assert loss.state_dict() == {}
    assert loss.to("meta").alpha.device.type == "meta"


def test_what_cannot_change_says_so():
    loss = fmicl_torch.FMICLLoss()
    for name, value in (("divergence", "js"), ("similarity", "cosine"), ("negatives", "all"),
                        ("normalize", False), ("objective", FMICL("js"))):  # fmt: skip
        with pytest.raises(ValueError, match=rf"`{name}`. Expected to be given when the loss is"):
            setattr(loss, name, value)
    for alpha in (-1.0, 0.0, "40", torch.ones(2)):
        with pytest.raises(ValueError, match="Invalid value for argument `alpha`"):
            loss.alpha = alpha
    assert loss.objective == FMICL()


def test_a_bad_alpha_is_refused_in_compiled_code_too():
    x, y = views()
    torch._dynamo.reset()
    step = torch.compile(lambda x, y, a: fmicl_torch.fmicl_loss(x, y, alpha=a), backend="eager")
    step(x, y, 2.0)
    for alpha in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"`alpha`. Expected a finite number > 0"):
            step(x, y, alpha)
    for alpha in (torch.tensor(-2.0), torch.tensor(float("nan"))):
        with pytest.raises(ValueError, match=r"`alpha`. Expected a finite number > 0, or an array"):
            fmicl_torch.fmicl_loss(x, y, alpha=alpha)


@pytest.mark.by_turns(every=2, torch=True)
@pytest.mark.parametrize(
    ("name", "implementation", "scalars"),
    [
        ("fmicl_loss", "dense", ("alpha", "logit_scale", "logit_bias")),
        ("fmicl_loss", "tiled", ("logit_scale", "logit_bias")),
        ("siglip_loss", "tiled", ("logit_bias",)),
        ("info_nce_loss", "dense", ("temperature",)),
        ("clip_loss", "tiled", ("logit_scale",)),
    ],
)
def test_other_scalars_compile_nothing_anew(name, implementation, scalars):
    """Numbers that change, then tensors, then parameters: a graph more for each."""
    x, y = views()
    loss = partial(getattr(fmicl_torch, name), implementation=implementation)
    step = compiled(lambda x, y, given: loss(x, y, **dict(zip(scalars, given, strict=True))))
    for make in (float, torch.tensor, lambda v: torch.nn.Parameter(torch.tensor(v))):
        for i in range(4):
            given = [make(0.5 + 0.25 * i) for _ in scalars]
            want = loss(x, y, **dict(zip(scalars, given, strict=True)))
            got = step(x, y, given)
            assert got.item() == pytest.approx(want.item(), rel=1e-12)
    leaves = [v for v in given if v.requires_grad]
    torch.testing.assert_close(*(torch.autograd.grad(v, leaves) for v in (got, want)))
    assert graphs() <= 4  # the first number is a constant, every other one a symbol


@both
def test_scalars_of_the_module_may_change_and_learn(implementation):
    x, y = views()
    loss = fmicl_torch.FMICLLoss(divergence="js", logit_bias=-1.0, implementation=implementation)
    assert "alpha=40.0, negatives" in repr(loss)
    assert "logit_bias=-1.0" in repr(loss)
    assert "logit_scale" not in repr(loss)
    step = compiled(loss)
    eager = lambda s, b: fmicl_torch.fmicl_loss(  # noqa: E731
        x, y, divergence="js", logit_scale=s, logit_bias=b
    ).item()
    for scale in (2.0, 3.0, 4.5, 6.0):
        loss.logit_scale = scale
        assert (loss.objective.logit_scale, loss.objective.logit_bias) == (scale, -1.0)
        assert step(x, y).item() == pytest.approx(eager(scale, -1.0), rel=1e-12)
    assert graphs() <= 2
    loss.logit_scale = torch.nn.Parameter(torch.tensor(3.0))
    assert [name for name, _ in loss.named_parameters()] == ["logit_scale"]
    loss(x, y).backward()
    assert loss.logit_scale.grad != 0.0
    assert loss.objective.logit_scale == 3.0
    loss.logit_scale = loss.logit_bias = None
    assert list(loss.parameters()) == []
    want = fmicl_torch.fmicl_loss(x, y, divergence="js").item()
    assert loss(x, y).item() == pytest.approx(want, rel=1e-12)
    assert "logit" not in repr(loss)
    for scale in (-1.0, 0.0, "1", torch.ones(2)):
        with pytest.raises(ValueError, match="Invalid value for argument `logit_scale`"):
            loss.logit_scale = scale
    with pytest.raises(ValueError, match="Invalid value for argument `similarity`"):
        fmicl_torch.FMICLLoss(similarity="laplace", logit_scale=2.0)


@both
def test_a_learned_loss_is_exported(implementation):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = fmicl_torch.SigLIPLoss(implementation=implementation)

        def forward(self, x, y):
            return self.loss(x, y)

    x, y = views()
    model = Model()
    program = torch.export.export(model, (x, y)).module()
    assert program(x, y).item() == model(x, y).item()
