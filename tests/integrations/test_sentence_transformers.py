"""The loss for sentence-transformers is the reference's, in every way its users feed a loss."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="sentence-transformers needs PyTorch")
pytest.importorskip("sentence_transformers", reason="these are tests of its loss")
pytest.importorskip("accelerate", reason="its trainer needs accelerate")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss  # noqa: E402
from sentence_transformers.sentence_transformer.modules import StaticEmbedding  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402

from fmicl_core import DIVERGENCES, FMICL, Gaussian, fmicl_reference  # noqa: E402
from fmicl_core.objective import AUTO  # noqa: E402
from fmicl_core.pairs import NEGATIVES  # noqa: E402
from fmicl_sentence_transformers import CachedFMICLLoss, FMICLLoss  # noqa: E402
from fmicl_sentence_transformers.duplicates import sample_numbers, text_keys  # noqa: E402

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
ANCHORS = ["a cat sleeps", "the dog runs in the park", "rain falls", "she reads a red book",
           "two men play", "the train is late"]  # fmt: skip
POSITIVES = ["the cat is asleep", "a dog runs outside", "it rains", "a woman reads a book",
             "men play a game", "a train comes late"]  # fmt: skip
HARD = ["a cat runs", "the dog sleeps", "snow falls", "she writes a book", "two men sleep",
        "the train is early"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_encoder):
    """The small encoder without dropout, so that embeddings can be compared."""
    return SentenceTransformer(str(tiny_encoder), device="cpu").eval()


@pytest.fixture(scope="module")
def static_model():
    """A table of word vectors, whose inputs are one flat row of tokens and where texts begin."""
    words = sorted({word for text in [*ANCHORS, *POSITIVES, *HARD] for word in text.split()})
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(len(words), 16, generator=torch.manual_seed(0))
    table = StaticEmbedding(tokenizer, embedding_weights=weights)
    return SentenceTransformer(modules=[table], device="cpu")


def pair(divergence, negatives):
    """Settings whose positives are the pairs of the data alone."""
    return FMICL(divergence, Gaussian(0.3), 7.0, negatives, positives="pair")


def features(model, *columns):
    return [model.preprocess(list(column)) for column in columns]


def embeddings(model, *columns):
    return [model.encode(list(column)).astype(np.float64) for column in columns]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("divergence", SUITABLE)
def test_pairs_equal_the_reference(model, divergence, negatives):
    loss = FMICLLoss(
        model, divergence=divergence, similarity=Gaussian(0.3), alpha=7.0, negatives=negatives
    )
    truth = fmicl_reference(
        *embeddings(model, ANCHORS, POSITIVES), FMICL(divergence, Gaussian(0.3), 7.0, negatives)
    )
    got = loss(features(model, ANCHORS, POSITIVES), None)
    assert got.dtype == torch.float32
    size = abs(truth.score) + 7.0 * abs(truth.penalty)
    assert got.item() == pytest.approx(truth.loss, abs=1e-5 * size)


def test_hard_negatives_count_as_the_rest_of_the_batch_does(model):
    """One plain mean over (a_i, p_j), j != i, and every (a_i, h_k), of two columns of them."""
    loss = FMICLLoss(model, similarity=Gaussian(0.3), alpha=7.0)
    columns = [ANCHORS, POSITIVES, HARD, HARD[::-1]]
    x, y, *hard = embeddings(model, *columns)
    bank = np.concatenate([y, *hard])
    own = np.arange(6)
    truth = fmicl_reference(x, y, pair("kl", "anchor"), bank, own, np.r_[own, np.full(12, -1)])
    assert loss(features(model, *columns), None).item() == pytest.approx(truth.loss, rel=1e-5)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_alpha_is_found_from_all_negative_pairs_of_a_batch(model, divergence, cached):
    """Of both kinds, and less those that share a text; its gradient is that of a constant."""
    columns = [ANCHORS, [*POSITIVES[:5], POSITIVES[0]], HARD, HARD[::-1]]
    x, y, *hard = embeddings(model, *columns)
    bank = np.concatenate([y, *hard])
    own = np.array([0, 1, 2, 3, 4, 0])  # the last sample shares a text with the first
    options = {"divergence": divergence, "similarity": Gaussian(0.3)}
    objective = FMICL(**options, alpha="auto", strength=3.0, negatives="anchor", positives="pair")
    # One plain mean over both kinds would weigh pairs alike; with ids each kind has its share.
    batch = fmicl_reference(x, y, dataclasses.replace(objective, negatives="cross"), None, own)
    hards = fmicl_reference(x, y, objective, bank[6:], own, np.full(12, -1))
    share = 12 / (12 + 5)
    alpha = 3.0 / ((1 - share) * 3.0 / batch.alpha + share * 3.0 / hards.alpha)
    kind = CachedFMICLLoss if cached else FMICLLoss
    loss = kind(model, **options, alpha="auto", strength=3.0)
    fixed = kind(model, **options, alpha=alpha)
    given = features(model, *columns)
    grads = [gradients(model, of(given, None)) for of in (loss, fixed)]
    assert loss.used_alpha.item() == pytest.approx(alpha, rel=1e-5)
    assert fixed.used_alpha.item() == pytest.approx(alpha)
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    config = loss.get_config_dict()
    assert (config["alpha"], config["strength"]) == ("auto", 3.0)
    assert "strength" not in fixed.get_config_dict()


@pytest.mark.parametrize("rows", [1, 3])
def test_one_sample_with_hard_negatives_has_these_alone(model, rows):
    """One pair, or the same one three times; the third hard negative is its own positive."""
    columns = ANCHORS[:1] * rows, POSITIVES[:1] * rows, [*HARD[:2], POSITIVES[0]][:rows]
    loss = FMICLLoss(model, similarity=Gaussian(0.3), alpha=7.0, negatives="all")
    x, y, hard = embeddings(model, *columns)
    numbers = np.zeros(rows, int), np.array([-1, -1, 0])[:rows]
    truth = fmicl_reference(x, y, pair("kl", "all"), hard, *numbers)
    got = loss(features(model, *columns), None)
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)


ALONE = {
    "one pair": [ANCHORS[:1], POSITIVES[:1]],
    "one pair and itself as hard negative": [ANCHORS[:1], POSITIVES[:1], ANCHORS[:1]],
    "one text three times": [ANCHORS[:1] * 3, ANCHORS[:1] * 3],
    "one sample by way of others": [ANCHORS[:2], [ANCHORS[1], POSITIVES[0]]],
    "equal pairs and their text as hard negatives":
        [ANCHORS[:1] * 2, POSITIVES[:1] * 2, POSITIVES[:1] * 2],
}  # fmt: skip


@pytest.mark.parametrize("kind", [FMICLLoss, CachedFMICLLoss])
@pytest.mark.parametrize("columns", ALONE.values(), ids=ALONE.keys())
def test_a_batch_without_negatives_gives_nothing_and_says_so_once(model, kind, columns):
    """As MultipleNegativesRankingLoss; every weight has a gradient, which DDP waits for."""
    loss = kind(model)
    with pytest.warns(UserWarning, match="one sample only, which has no negative"):
        first = loss(features(model, *columns), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = loss(features(model, *columns), None)
    assert first.item() == value.item() == 0.0
    assert value.dtype == torch.float32
    given = gradients(model, value)
    usual = gradients(model, loss(features(model, ANCHORS, POSITIVES), None))
    assert len(given) == len(usual) > 0
    assert not any(g.any() for g in given)
    assert any(g.any() for g in usual)
    with torch.no_grad():
        assert loss(features(model, *columns), None).item() == 0.0


@pytest.mark.filterwarnings("ignore:A batch of 1 holds one sample")
def test_what_is_wrong_with_a_batch_of_one_is_still_named(model):
    x = torch.ones(1, 8)
    with pytest.raises(ValueError, match=r"`y`. Expected finite features. .* in row 0"):
        FMICLLoss(model).terms([x, x * torch.nan])
    with pytest.raises(ValueError, match=r"`y`. Expected the shape of `x`"):
        FMICLLoss(model).terms([x, torch.ones(2, 8)])
    with pytest.raises(ValueError, match=r"`x`. Expected at least two rows"):
        FMICLLoss(model).terms([x[:0], x[:0]])


def test_a_run_whose_last_batch_has_one_sample_ends_well(static_model, tmp_path):
    trainer = SentenceTransformerTrainer(
        model=copy.deepcopy(static_model), loss=FMICLLoss(static_model),
        train_dataset=Dataset.from_dict({"anchor": ANCHORS[:4], "positive": POSITIVES[:4]}),
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=3, num_train_epochs=2,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
        ),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="one sample only") as caught:
        assert np.isfinite(trainer.train().training_loss)
    assert sum("one sample only" in str(w.message) for w in caught) == 1
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_equal_texts_are_not_negatives_of_each_other(model, negatives):
    """Texts 0 and 3 share the anchor, 2 and 5 the positive, and hard negative 1 is positive 4."""
    anchors, positives, hard = ANCHORS.copy(), POSITIVES.copy(), HARD.copy()
    anchors[3], positives[5], hard[1] = anchors[0], positives[2], positives[4]
    samples = np.array([0, 1, 2, 0, 4, 2])
    objective = pair("js", negatives)
    loss = FMICLLoss(
        model, divergence="js", similarity=Gaussian(0.3), alpha=7.0, negatives=negatives
    )
    x, y, h = embeddings(model, anchors, positives, hard)
    truth = fmicl_reference(x, y, objective, ids=samples)
    got = loss(features(model, anchors, positives), None)
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)
    bank = fmicl_reference(x, y, objective, h, samples, np.array([-1, 4, -1, -1, -1, -1]))
    got = loss(features(model, anchors, positives, hard), None)
    assert got.item() == pytest.approx((5 * truth.loss + 6 * bank.loss) / 11, rel=1e-5)
    plain = FMICLLoss(
        model, divergence="js", similarity=Gaussian(0.3), alpha=7.0, negatives=negatives,
        mask_duplicates=False,
    )  # fmt: skip
    want = fmicl_reference(x, y, objective)
    assert plain(features(model, anchors, positives), None).item() == pytest.approx(want.loss, 1e-5)


LABELS = np.array([3, 1, 3, -2, 1, 3])


@pytest.mark.parametrize("kind", [FMICLLoss, CachedFMICLLoss])
@pytest.mark.parametrize("negatives", ["cross", "all"])
def test_labels_make_positives(model, kind, negatives):
    """In pairs, in pairs with hard negatives (of which one is the text of a sample), in texts."""
    options = {"similarity": Gaussian(0.3), "alpha": 7.0, "ids_from_labels": True}
    loss = kind(model, negatives=negatives, **options)
    hard = [*HARD[:5], POSITIVES[0]]
    x, y, h = embeddings(model, ANCHORS, POSITIVES, hard)
    objective, labels = FMICL("kl", Gaussian(0.3), 7.0, negatives), torch.from_numpy(LABELS)
    truth = fmicl_reference(x, y, objective, ids=LABELS)
    got = loss(features(model, ANCHORS, POSITIVES), labels)
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)
    bank = fmicl_reference(x, y, objective, h, LABELS, np.array([9, 9, 9, 9, 9, LABELS[0]]))
    got = loss(features(model, ANCHORS, POSITIVES, hard), labels)
    want = truth.loss + 7.0 * 6 / 11 * (bank.penalty - truth.penalty)
    assert got.item() == pytest.approx(want, rel=1e-5)
    single = kind(model, negatives="all", **options)
    truth = fmicl_reference(x, None, FMICL("kl", Gaussian(0.3), 7.0, "all"), ids=LABELS)
    got = single(features(model, ANCHORS), labels)
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:A batch of 6 holds one label only")
def test_labels_that_make_no_pairs_give_nothing_and_wrong_ones_are_named(model):
    loss = FMICLLoss(model, negatives="all", ids_from_labels=True)
    texts = features(model, ANCHORS)
    for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):
        assert loss(texts, labels).item() == 0.0
    for labels, message in (
        (None, r"`labels`. Expected a torch.Tensor of whole numbers with ids_from_labels=True"),
        (torch.ones(6), r"`labels`. Expected whole numbers, .* labels.dtype='float32'"),
        (torch.arange(5), r"`labels`. Expected one whole number for each row of `x`"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(texts, labels)


def test_the_parts_of_the_loss_are_logged_by_the_trainer(model, static_model, tmp_path):
    options = {"similarity": Gaussian(0.3), "alpha": 7.0}
    parts = FMICLLoss(model, return_parts=True, **options)(features(model, ANCHORS, POSITIVES))
    whole = FMICLLoss(model, **options)(features(model, ANCHORS, POSITIVES))
    assert sum(parts.values()).item() == pytest.approx(whole.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"`return_parts`. Expected False for CachedFMICLLoss"):
        CachedFMICLLoss(model, return_parts=True)
    encoder = copy.deepcopy(static_model)
    trainer = SentenceTransformerTrainer(
        model=encoder, loss=FMICLLoss(encoder, return_parts=True, **options),
        train_dataset=Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES}),
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=3, num_train_epochs=1,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
        ),
    )  # fmt: skip
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["score"] + row["penalty"] == pytest.approx(row["loss"], abs=1e-3)


def test_keys_do_not_depend_on_padding(model):
    short, long = model.preprocess(["a cat"]), model.preprocess(["a cat", " ".join(ANCHORS)])
    keys = text_keys(long)
    assert text_keys(short)[0] == keys[0] != keys[1]
    width = long["input_ids"].shape[1] - short["input_ids"].shape[1]
    left = {
        k: torch.nn.functional.pad(short[k], (width, 0)) for k in ("input_ids", "attention_mask")
    }
    assert text_keys(left)[0] == keys[0]
    swapped = text_keys(model.preprocess(["dog cat", "cat dog"]))
    assert swapped[0] != swapped[1]


@given(texts=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=8))
def test_keys_of_flat_and_of_padded_tokens_are_the_same(texts):
    """Texts of any lengths, empty ones too: as static embeddings and flash attention take them."""
    width = max(1, *map(len, texts))
    padded = torch.tensor([t + [0] * (width - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts])
    flat = torch.tensor([token for text in texts for token in text], dtype=torch.int64)
    offsets = torch.tensor(np.cumsum([0, *map(len, texts[:-1])]))
    keys = text_keys({"input_ids": flat, "offsets": offsets})
    assert torch.equal(keys, text_keys({"input_ids": padded, "attention_mask": mask}))
    ends = torch.tensor([*offsets, len(flat)], dtype=torch.int32)
    assert torch.equal(keys, text_keys({"input_ids": flat[None], "cu_seq_lens_q": ends}))
    same = [[a == b for b in texts] for a in texts]
    assert (keys[:, None] == keys).tolist() == same


def test_static_embeddings_equal_the_reference(static_model):
    """Texts 0 and 3 share the anchor, and hard negative 1 is positive 4."""
    anchors, hard = [*ANCHORS[:3], ANCHORS[0], *ANCHORS[4:]], HARD.copy()
    hard[1] = POSITIVES[4]
    objective, samples = pair("kl", "cross"), np.array([0, 1, 2, 0, 4, 5])
    loss = FMICLLoss(static_model, similarity=Gaussian(0.3), alpha=7.0)
    x, y, h = embeddings(static_model, anchors, POSITIVES, hard)
    truth = fmicl_reference(x, y, objective, ids=samples)
    got = loss(features(static_model, anchors, POSITIVES), None)
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)
    assert truth.loss != pytest.approx(fmicl_reference(x, y, objective).loss, rel=1e-3)
    bank = fmicl_reference(x, y, objective, h, samples, np.array([-1, 4, -1, -1, -1, -1]))
    got = loss(features(static_model, anchors, POSITIVES, hard), None)
    assert got.item() == pytest.approx((5 * truth.loss + 6 * bank.loss) / 11, rel=1e-5)
    assert all(g.isfinite().all() and g.any() for g in gradients(static_model, got))


@given(texts=st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_samples_are_the_connected_ones(texts):
    """Against merging by hand: three samples in two columns of texts, and four hard negatives."""
    anchors, positives, hard = texts[:3], texts[3:6], texts[6:]
    groups = [{a, p} for a, p in zip(anchors, positives, strict=True)]
    merged = []
    for group in groups:
        touching = [m for m in merged if m & group]
        merged = [m for m in merged if not m & group] + [group.union(*touching)]
    home = [next(i for i, m in enumerate(merged) if a in m) for a in anchors]
    owner = [next((i for i, m in enumerate(merged) if h in m), None) for h in hard]
    samples, others = sample_numbers(torch.tensor(texts), 3)
    if len(merged) == 3 and owner == [None] * 4:
        assert samples is None
        return
    assert [[a == b for b in samples] for a in samples] == [[a == b for b in home] for a in home]
    assert [[a == b for b in samples] for a in others] == [[a == b for b in home] for a in owner]


def test_unsupervised_pairs_differ_by_dropout_alone(model):
    columns = features(model, ANCHORS, ANCHORS)
    loss = FMICLLoss(model, similarity=Gaussian(0.3), alpha=7.0)
    x = embeddings(model, ANCHORS)[0]
    truth = fmicl_reference(x, x, FMICL("kl", Gaussian(0.3), 7.0, "cross"))
    assert loss(columns, None).item() == pytest.approx(truth.loss, rel=1e-5)
    dropping = copy.deepcopy(model).train()
    views = [dropping(f)["sentence_embedding"] for f in features(model, ANCHORS, ANCHORS)]
    assert truth.score == pytest.approx(1.0)
    assert loss.terms(views).score.item() < 0.99


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_cached_form_has_the_same_loss_and_gradient(model, size):
    """With duplicates, hard negatives and a last part that is smaller."""
    columns = [[*ANCHORS[:5], ANCHORS[0]], POSITIVES, HARD]
    options = {"divergence": "pearson", "similarity": Gaussian(0.3), "alpha": 7.0}
    plain = FMICLLoss(model, **options)(features(model, *columns), None)
    want = gradients(model, plain)
    cached = CachedFMICLLoss(model, mini_batch_size=size, **options)
    got = cached(features(model, *columns), None)
    assert got.item() == pytest.approx(plain.item(), rel=1e-5)
    largest = max(g.abs().max().item() for g in want)
    for a, b in zip(gradients(model, got), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * largest)
    with torch.no_grad():
        assert cached(features(model, *columns), None).item() == pytest.approx(plain.item(), 1e-5)


def test_bf16_embeddings_lose_only_their_own_rounding(tiny_encoder):
    half = SentenceTransformer(
        str(tiny_encoder), device="cpu", model_kwargs={"torch_dtype": "bfloat16"}
    ).eval()
    x, y = (half(f)["sentence_embedding"] for f in features(half, ANCHORS, POSITIVES))
    assert x.dtype == torch.bfloat16
    got = FMICLLoss(half)(features(half, ANCHORS, POSITIVES), None)
    assert got.dtype == torch.float32
    rounded = (v.detach().double().numpy() for v in (x, y))
    truth = fmicl_reference(*rounded, FMICL("kl", Gaussian(0.025), AUTO, "cross"))
    assert got.item() == pytest.approx(truth.loss, rel=1e-4)
    assert all(g.isfinite().all() for g in gradients(half, got))


GATHER = """
import os, sys, torch, numpy as np
import torch.distributed as dist
from fmicl_core import Gaussian
from fmicl_sentence_transformers import CachedFMICLLoss, FMICLLoss
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.EmbeddingBag(50, 8).double()
    def forward(self, features):
        return {"sentence_embedding": self.table(features["input_ids"])}
    def __getitem__(self, _):  # a model's first module
        return self.table

def columns(rows):
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 50, (3, 8, 5)))
    tokens[:, 6] = tokens[:, 1]  # a text that stands in both processes' batches
    return [{"input_ids": t[rows], "attention_mask": torch.ones_like(t[rows])} for t in tokens]

def run(model, rows, gather, kinds=3, kind=FMICLLoss, labels=None, alpha=5.0, **options):
    loss = kind(getattr(model, "module", model), divergence="js", similarity=Gaussian(0.3),
                alpha=alpha, negatives="all", gather_across_devices=gather,
                ids_from_labels=labels is not None, **options)
    loss.model = model  # as the trainer does
    loss = loss(columns(rows)[:kinds], None if labels is None else labels[rows])
    loss.backward()
    return loss.item()

labels = {"labels": torch.tensor([0, 1, 0, 2, 1, 3, 2, 2])}
cases = {"pairs": {}, "cached": {"kind": CachedFMICLLoss, "mini_batch_size": 3},
         "auto": {"alpha": "auto"}, "labels": labels, "texts": labels | {"kinds": 1}}
for name, options in cases.items():
    plain = {k: v for k, v in options.items() if name != "cached"}
    whole, ours = Encoder(), torch.nn.parallel.DistributedDataParallel(Encoder())
    want = run(whole, slice(0, 8), False, **plain)
    got = run(ours, slice(4 * rank, 4 * rank + 4), True, **options)
    a, b = ours.module.table.weight.grad, whole.table.weight.grad
    similarity = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0)
    np.save(f"{out}-{name}", [got, want, (a.norm() / b.norm()).item(), similarity])

def small(row):
    # A pair on each rank: loss, and the largest gradient.
    ours.zero_grad()
    loss = run(ours, slice(row, row + 1), True, kinds=2)
    return loss, ours.module.table.weight.grad.abs().max().item()

np.save(out + "-one", [*small(rank), run(Encoder(), slice(0, 2), False, 2), *small((1, 6)[rank])])
dist.barrier()  # no rank may leave while another still talks to it
os._exit(0)  # gloo's threads can end a process that the interpreter is leaving (SIGABRT)
"""


def test_gathered_processes_are_one_batch(tmp_path):
    """Two processes under DistributedDataParallel: loss and gradient of the union batch.

    Also of one sample each; where both hold the same, there is no negative, and no rank waits.
    """
    outs = [tmp_path / f"{rank}.npy" for rank in (0, 1)]
    runs = [
        subprocess.Popen([sys.executable, "-c", GATHER, str(rank), tmp_path / "store", out])
        for rank, out in enumerate(outs)
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    for out in outs:
        for case in ("pairs", "cached", "auto", "labels", "texts"):
            got, want, ratio, cosine = np.load(f"{out}-{case}.npy")
            assert got == pytest.approx(want, rel=1e-12)
            assert ratio == pytest.approx(1.0, abs=1e-12)
            assert cosine == pytest.approx(1.0, abs=1e-12)
        got, gradient, want, *of_one_text = np.load(f"{out}-one.npy")
        assert got == pytest.approx(want, rel=1e-6)  # one pair on each rank, two in all
        assert gradient > 0.0
        assert of_one_text == [0.0, 0.0]  # which stands on both ranks


def test_a_script_works_after_replacing_the_loss_line(tiny_encoder, tmp_path):
    """The documentation's training script, with this loss in the place of theirs."""
    encoder = SentenceTransformer(str(tiny_encoder), device="cpu")
    encoder.model_card_data.local_files_only = True
    before = encoder.encode(ANCHORS)
    train = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES, "negative": HARD})
    loss = FMICLLoss(encoder)  # was: MultipleNegativesRankingLoss(encoder)
    trainer = SentenceTransformerTrainer(
        model=encoder, train_dataset=train, loss=loss,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"), per_device_train_batch_size=3, num_train_epochs=1,
            use_cpu=True, bf16=True, save_strategy="no", report_to="none", disable_tqdm=True,
        ),
    )  # fmt: skip
    trainer.train()
    encoder.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for words in ("FMICLLoss", "lu2023fmicl", "auto", "Gaussian(sigma2=0.025, mu=1.0)"):
        assert words in card
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(ANCHORS)
    assert np.isfinite(again).all()
    assert not np.allclose(again, before)


def test_it_serves_inside_other_losses(model):
    loss = MatryoshkaLoss(model, FMICLLoss(model), matryoshka_dims=[16, 8])
    value = loss(features(model, ANCHORS, POSITIVES), None)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in gradients(model, value))


@pytest.mark.parametrize("kind", [FMICLLoss, CachedFMICLLoss])
def test_the_configuration_is_plain_and_complete(model, kind):
    loss = kind(model, divergence="tsallis", negatives="all")
    config = json.loads(json.dumps(loss.get_config_dict()))
    assert config["divergence"] == "Tsallis(order=1.5)"
    assert config["negatives"] == "all"
    assert "lu2023fmicl" in loss.citation
    assert ("mini_batch_size" in config) == (kind is CachedFMICLLoss)


MISTAKES = [
    ({"alpha": -1}, r"`alpha`. Expected a finite number > 0"),
    ({"negatives": "none"}, r"`negatives`. Expected one of 'anchor'"),
    ({"divergence": "lk"}, r"`divergence`. Expected one of 'kl'"),
    ({"mask_duplicates": 1}, r"`mask_duplicates`. Expected True or False"),
    ({"ids_from_labels": None}, r"`ids_from_labels`. Expected True or False"),
    ({"alpha": 40.0, "strength": 2.0}, r"`strength`. Expected None unless alpha='auto'"),
    ({"return_parts": 1}, r"`return_parts`. Expected True or False"),
    ({"gather_across_devices": "yes"}, r"`gather_across_devices`. Expected True or False"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=str)
def test_mistakes_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        FMICLLoss(model, **options)


def test_what_cannot_be_a_batch_is_named(model):
    with pytest.raises(ValueError, match=r"`sentence_features`. Expected two columns or more"):
        FMICLLoss(model)(features(model, ANCHORS), None)
    with pytest.raises(ValueError, match=r"`mini_batch_size`. Expected a whole number >= 1"):
        CachedFMICLLoss(model, mini_batch_size=0)
    images = [{"pixel_values": torch.zeros(2, 3)}] * 2
    with pytest.raises(ValueError, match=r"`mask_duplicates`. Expected False for inputs other"):
        FMICLLoss(model)(images, None)


STS = Path(__file__).resolve().parents[3] / "shared" / "data" / "sts" / "sts.parquet"


def test_the_real_encoder_at_the_paper_s_setting(real_encoder):
    """MiniLM on STS-B: pairs that mean the same align better than a batch's shuffled ones."""
    if not STS.exists():
        pytest.skip("the STS rows are not beside the repository")
    import pandas as pd

    rows = pd.read_parquet(STS).query("task == 'stsb' and split == 'dev' and score >= 4.5")[:64]
    encoder = SentenceTransformer(str(real_encoder), device="cpu").eval()
    columns = features(encoder, rows.sentence1, rows.sentence2)
    with torch.no_grad():
        terms = FMICLLoss(encoder).terms([encoder(c)["sentence_embedding"] for c in columns])
        shuffled = FMICLLoss(encoder).terms(
            [encoder(c)["sentence_embedding"].roll(i, 0) for i, c in enumerate(columns)]
        )
    assert terms.score > -10.0 > -20.0 > shuffled.score
    assert 0.0 < terms.penalty < 1e-2
