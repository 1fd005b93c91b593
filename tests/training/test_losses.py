"""Every loss against its double loop: values and gradients in float64."""

from __future__ import annotations

import naive_losses
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vixml.config.run import Loss
from vixml.training.diagnostics import collapsed_loss
from vixml.training.losses import Positives, Triplets, mine, regulariser, total_loss, triplet_loss

PAPER = Loss()
NGAME = Loss(margin_min=0.3, margin_max=0.3)
FORMS = {
    "ties": ["none", "half"],
    "weight_gradient": [False, True],
    "regulariser_negatives": ["u", "z"],
    "regulariser_gradient": ["z", "both"],
    "regulariser_halves": ["sum", "mean"],
}
OFFICIAL = Loss(**{key: values[1] for key, values in FORMS.items()})


def random_batch(seed, n, m, density=0.3, dim=3):
    """Return unit vectors of queries, texts and prototypes, a truth with a positive in every row and column, and draws."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, m)) < density
    truth[np.arange(n), rng.integers(0, m, n)] = True
    truth[rng.integers(0, n, m), np.arange(m)] = True
    drawn_label = [[int(rng.choice(np.flatnonzero(row))) for row in truth] for _ in range(3)]
    drawn_query = [int(rng.choice(np.flatnonzero(column))) for column in truth.T]
    vectors = [F.normalize(torch.from_numpy(rng.standard_normal((k, dim))), dim=1) for k in (n, m, m)]
    return vectors, truth, drawn_label, drawn_query


def positives_of(truth, drawn_label, drawn_query):
    return Positives(torch.from_numpy(truth), torch.tensor(drawn_label), torch.tensor(drawn_query))


def row_of(*scores, dtype=torch.float64):
    """Return scores of one row that learn, and a function of ``k`` that mines them; the first column is the positive."""
    scores = torch.tensor([scores], dtype=dtype, requires_grad=True)
    is_positive = torch.arange(scores.shape[1])[None] == 0
    return scores, lambda k=10: mine(scores, is_positive, torch.tensor([0]), k)


def compare(vectors, truth, drawn_label, drawn_query, config, method="PRIME", columns=None):
    """Check total, terms and gradients; return the terms. ``columns`` names the label of each column, copies included."""
    leaves = [v.clone().requires_grad_() for v in (vectors[:2] if method == "NGAME" else vectors)]
    # Copies have equal scores, so which of them is among the hardest is arbitrary; the gradient of their label is not.
    arguments = [leaves[0], *(v if columns is None else v[columns] for v in leaves[1:])]
    arguments += [None] if len(leaves) == 2 else []
    ours, terms = total_loss(*arguments, positives_of(truth, drawn_label, drawn_query), config, method)
    expected, expected_terms = naive_losses.total(*arguments, truth.tolist(), drawn_label, drawn_query, config, method)
    assert terms.keys() == expected_terms.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected_terms[name], atol=1e-12, rtol=1e-10, msg=lambda m, t=name: t + m)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-10)
    gradients = torch.autograd.grad(ours, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)
    theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    for a, b in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
        assert torch.isfinite(a).all()
    return terms


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 6),
    m=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    config=st.sampled_from([PAPER, NGAME, Loss(negatives=3), Loss(margin_min=0.0, temperature=0.03, regulariser=0.7)]),
    form=st.fixed_dictionaries({key: st.sampled_from(values) for key, values in FORMS.items()}),
    method=st.sampled_from(["PRIME", "NGAME", "DEXA"]),
)
def test_any_batch_equals_the_double_loop(seed, n, m, density, config, form, method):
    vectors, truth, *drawn = random_batch(seed, n, m, density)
    compare(vectors, truth, *drawn, config.model_copy(update=form), method)


@pytest.mark.parametrize("key", FORMS)
def test_each_key_changes_the_gradient_and_equals_the_double_loop(key):
    """A learned batch with copies of labels, so that rows without a violator occur; one key away from the official form."""
    vectors, truth, drawn_label, drawn_query = random_batch(3, 12, 30, 0.1, dim=16)
    vectors[0] = F.normalize(vectors[0] + 2 * vectors[1][drawn_label[0]], dim=1)
    columns = [*range(30), *range(8)]
    truth, drawn_query = truth[:, columns], [drawn_query[label] for label in columns]
    leaves = [v.clone().requires_grad_() for v in vectors]
    found = {}
    for value in FORMS[key]:
        config = OFFICIAL.model_copy(update={key: value})
        compare(vectors, truth, drawn_label, drawn_query, config, columns=columns)
        kept = (leaves[0], *(v[columns] for v in leaves[1:]))
        loss, _ = total_loss(*kept, positives_of(truth, drawn_label, drawn_query), config)
        found[value] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)])
    apart = torch.linalg.vector_norm(found[FORMS[key][0]] - found[FORMS[key][1]])
    assert apart > 0.01 * torch.linalg.vector_norm(found[FORMS[key][1]])


def test_what_each_method_learns_from():
    vectors, truth, *drawn = random_batch(5, 9, 26, 0.1)
    assert set(compare(vectors, truth, *drawn, NGAME, "NGAME")) == {"q_u"}
    assert set(compare(vectors, truth, *drawn, NGAME, "DEXA")) == {"q_z"}
    terms = compare(vectors, truth, *drawn, PAPER)
    assert terms.keys() == {"q_u", "u_q", "q_z", "reg"}
    assert all(value > 0 for value in terms.values()), "with more than ten negatives, every term has a loss"


@pytest.mark.parametrize("config", [PAPER, NGAME])
def test_a_batch_of_one_has_no_negatives(config):
    vectors, truth, *drawn = random_batch(0, 1, 1)
    terms = compare(vectors, truth, *drawn, config)
    assert terms["q_u"] == terms["q_z"] == terms["u_q"] == 0
    leaves = [v.clone().requires_grad_() for v in vectors[:2]]
    loss, _ = total_loss(*leaves, None, positives_of(truth, *drawn), config, "NGAME")
    for gradient in torch.autograd.grad(loss, leaves):
        assert torch.count_nonzero(gradient) == 0


def test_no_violating_negative_is_no_loss():
    axes = torch.eye(4, dtype=torch.float64)
    truth, drawn = np.eye(4, dtype=bool), [0, 1, 2, 3]
    terms = compare([axes, axes, axes], truth, [drawn] * 3, drawn, PAPER)
    assert terms["q_u"] == terms["q_z"] == terms["u_q"] == 0
    # z does not yet improve on u: positives fall short by the margin, negatives exceed it by the margin.
    torch.testing.assert_close(terms["reg"], torch.tensor(0.2, dtype=torch.float64))


def test_fixed_margin_is_ngame():
    """One positive at 0.9, negatives at 0.8 and 0.5: by hand, hinges 0.2 and none."""
    triplets = row_of(0.9, 0.8, 0.5)[1]()
    torch.testing.assert_close(triplet_loss(triplets, NGAME), torch.tensor(0.2, dtype=torch.float64))
    # The dynamic margin is 0.1 for the first (its gap), where the hinge just vanishes, and 0.3 for the second.
    assert triplet_loss(triplets, PAPER) < 1e-15


def test_the_margin_has_no_gradient():
    """A violating negative above its positive has margin ``s_n - s_p``: with a gradient the slope would be two."""
    scores, mined = row_of(0.5, 0.7)
    loss = triplet_loss(mined(), PAPER)
    torch.testing.assert_close(loss, torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([[-1.0, 1.0]], dtype=torch.float64))


def test_the_weights_have_a_gradient_where_asked():
    """Two violating negatives share one unit of gradient by their softmax (D3); or the softmax itself has one."""
    scores, mined = row_of(0.5, 0.7, 0.6)
    triplets = mined()
    share = torch.softmax(torch.tensor([7.0, 6.0], dtype=torch.float64), dim=0)
    loss = share[0] * 0.4 + share[1] * 0.2
    through = share[0] * share[1] * (0.4 - 0.2) / 0.1  # d loss / d s_1 through the weights; that of s_2 is its opposite
    for config, extra in ((PAPER, 0.0), (OFFICIAL, float(through))):
        value = triplet_loss(triplets, config)
        torch.testing.assert_close(value, loss)
        expected = torch.tensor([[-1.0, share[0] + extra, share[1] - extra]], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(value, scores, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [2, 10])
def test_a_tie_passes_half_the_gradient(dtype, k):
    """Gaps of 0.2 and 0.15 lie between the clamps, so the margin is the gap and both hinges are exactly 0."""
    scores, mined = row_of(0.5, 0.3, 0.35, dtype=dtype)
    for ties, expected in (("half", [[-0.5, 0.25, 0.25]]), ("none", [[0.0, 0.0, 0.0]])):
        loss = triplet_loss(mined(k), OFFICIAL.model_copy(update={"ties": ties}))
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert loss.item() == 0 and gradient.tolist() == expected


def test_a_tie_beside_a_violator_has_no_weight():
    """The softmax runs over violators only; the tie's hinge is 0 and so is its weight."""
    scores, mined = row_of(0.5, 0.3, 0.45)  # gaps 0.2 (tie) and 0.05
    loss = triplet_loss(mined(), OFFICIAL)
    torch.testing.assert_close(loss, torch.tensor(0.05, dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([[-1.0, 0, 1.0]]).double())


def test_easy_negatives_take_their_share_of_a_row_without_a_violator():
    """Equal weights go to all k negatives: one whose gap exceeds the upper clamp has a hinge below 0 and no gradient."""
    scores, mined = row_of(0.9, 0.7, 0.2, 0.1)
    loss = triplet_loss(mined(), OFFICIAL)
    expected = torch.tensor([[-1 / 6, 1 / 6, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], expected)


def test_each_term_uses_its_own_draw():
    vectors, truth, drawn_label, drawn_query = random_batch(7, 8, 12, 0.5)
    base = compare(vectors, truth, drawn_label, drawn_query, OFFICIAL)
    for position, name in enumerate(["q_u", "q_z", "reg"]):
        others = [drawn_label[(position + 1) % 3] if i == position else one for i, one in enumerate(drawn_label)]
        changed = compare(vectors, truth, others, drawn_query, OFFICIAL)
        assert {term for term, value in changed.items() if value != base[term]} == {name}


def test_mining_takes_the_hardest_and_marks_what_is_not_there():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.3, 0.2, 0.1, 0.0]])
    positive = torch.tensor([[False, True, False, False], [True, True, True, False]])
    triplets = mine(scores, positive, torch.tensor([1, 0]), 2)
    assert triplets.columns[0].tolist() == [3, 2] and triplets.valid.tolist() == [[True, True], [True, False]]
    assert triplets.columns[1, 0] == 3
    torch.testing.assert_close(triplets.positive, torch.tensor([0.9, 0.3]))


def test_where_the_gradient_of_r_flows():
    """D2: into the text vectors' scores, the cheapest way to a better prototype would be a worse text vector."""
    u = torch.tensor([[0.5, 0.7]], requires_grad=True)
    z = torch.tensor([[0.4, 0.6]], requires_grad=True)
    column, valid = torch.tensor([[1]]), torch.tensor([[True]])
    at_u, at_z = (Triplets(scores[:, 0], scores[:, 1:], column, valid) for scores in (u, z))
    for config, into_u in (
        (PAPER, [[0.0, 0.0]]),
        (PAPER.model_copy(update={"regulariser_gradient": "both"}), [[1.0, -1.0]]),
    ):
        value = regulariser(at_u, at_z, config)
        gradient_u, gradient_z = torch.autograd.grad(value, [u, z], allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(gradient_u, torch.tensor(into_u))
        torch.testing.assert_close(gradient_z, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("prime", [True, False])
def test_the_collapsed_state(prime):
    """All similarities equal: 3 x 0.1 + 0.1 x 0.2 = 0.32 with the paper's constants."""
    _, truth, *drawn = random_batch(2, 6, 8, 0.2)
    truth[:, 0] = [True, False, False, False, False, False]
    vectors = [torch.ones(k, 4) / 2 for k in (6, 8, 8)]
    first, first_query = ([int(np.flatnonzero(row)[0]) for row in table] for table in (truth, truth.T))
    drawn = [[first] * 3, first_query]
    method = "PRIME" if prime else "DEXA"
    loss, _ = total_loss(*vectors, positives_of(truth, *drawn), PAPER, method)
    expected = 0.32 if prime else 0.1
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert collapsed_loss(PAPER, prime) == pytest.approx(expected)
