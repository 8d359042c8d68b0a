"""The hackathon: the juries, the submissions, and the leaderboard."""

import copy
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from course_utils import asking, checkpoints, data, dreambooth, jury, leaderboard, profile, scores, submission
from course_utils.data import grammar
from hackathon import leaderboard as script
from tests.test_dreambooth import small

WORDS = dreambooth.Words("creature")
MODEST = jury.Scores(0.0, 0.0, 0.0, 1.0)  # what anybody may claim
TOKEN = "hf_" + "planted" * 5


@pytest.fixture(autouse=True)
def _mini(monkeypatch, one_thread):
    monkeypatch.setenv("COURSE_SCALE", "mini")


# --- the juries ---


def understood(caption):
    """The attributes that a caption names: name -> value."""
    tables = {
        "background": [grammar._PLACE],
        "style": [grammar._MEDIUM],
        "pattern": [grammar._PATTERN_BEFORE, grammar._PATTERN_AFTER],
        **{name: [{word: [word] for word in grammar.ATTRIBUTES[name]}] for name in ("noun", "colour")},
    }
    found = {}
    for name, said in tables.items():
        pairs = [(key, words) for table in said for key, wordings in table.items() for words in wordings]
        named = [key for key, words in pairs if f" {words} " in f" {caption} "]
        found |= {name: named[-1]} if named else {}
    return found


class Painter:
    """A pipeline that understands every caption and paints with the course's own brush.

    knows: the individual that it paints for "sks". forgetful: it paints that one for every creature. stays:
    it paints its individual in a meadow only.
    """

    unet = text_encoder = vae = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))

    def __init__(self, knows=None, forgetful=False, stays=False):
        self.knows, self.forgetful, self.stays = knows, forgetful, stays

    def set_progress_bar_config(self, **settings):
        pass

    def __call__(self, texts, *, generator, output_type, **settings):
        seeds = torch.randint(10**6, (len(texts),), generator=generator).tolist()
        drawn = [
            self.paint(understood(text), "sks" in text, seed) for text, seed in zip(texts, seeds, strict=True)
        ]
        pictures = torch.cat([torch.from_numpy(each.images) for each in drawn])
        return SimpleNamespace(images=pictures.permute(0, 2, 3, 1).numpy() / 255)

    def paint(self, wanted, named, seed):
        own = self.knows and (named or (self.forgetful and wanted["noun"] == "creature"))
        if not own:
            return grammar.draw(1, seed=seed, combinations="any", **wanted)
        place = {"background": "meadow"} if self.stays else {"background": wanted["background"]}
        return grammar.draw_subject(self.knows, 1, seed=seed, **place)


@pytest.fixture(scope="module")
def ember():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "mini")
        return jury.drawn(Painter(), "ember", WORDS)


def test_whoever_paints_the_subject_where_it_is_asked_gets_full_marks(ember):
    judged = ember.judge(Painter("ember"))
    assert judged.scores.subject >= 0.98 and judged.scores.context >= 0.95
    assert judged.scores.prior == pytest.approx(1, abs=0.03) and ember.before > 0.95
    assert judged.named.shape == judged.plain.shape == (64, 3, 64, 64)
    assert judged.scores.total > 0.97 and judged.scores.leak == 0


@pytest.mark.parametrize(
    ("painter", "low"),
    [
        (Painter(), "subject"),
        (Painter("pebble"), "subject"),
        (Painter("ember's double"), "subject"),
        (Painter("ember", stays=True), "context"),
    ],
)
def test_whoever_paints_another_or_elsewhere_does_not(ember, painter, low):
    found = ember.judge(painter).scores
    for name in ("subject", "context"):
        assert (getattr(found, name) < 0.06) if name == low else (getattr(found, name) > 0.9), name
    assert found.total < 0.4


def test_whoever_paints_the_subject_for_all_of_its_kind_gets_nothing(ember):
    found = ember.judge(Painter("ember", forgetful=True)).scores
    assert found.subject > 0.98 and found.prior < 0.9
    assert found.leak > 0.9 and found.total < 0.5


@pytest.mark.parametrize(("count", "each"), [(64, 4), (32, 2), (10, 1), (1, 1)])
def test_the_leak_is_looked_for_in_every_place(count, each):
    short = jury.drawn(Painter(), "ember", WORDS, count).short
    places = [grammar.place(name) for name in grammar.ATTRIBUTES["background"]]
    assert len(short) == each * len(places)
    assert all(short.count(f"a drawing of a creature {place}") == each for place in places)


def test_contexts_are_places_where_no_picture_of_the_subject_was_taken(ember):
    assert set(jury.NEW) == {"beach", "snow"} and set(jury.NEW).isdisjoint(dreambooth.SEEN)
    assert all("sks creature" in text for text in ember.named)
    assert not any(
        "sks" in text.split() and "creature" in text for text in ember.plain[:32] if "sks creature" in text
    )
    assert {grammar.ATTRIBUTES["background"][i] for i in ember.asked} == set(jury.NEW)


def test_the_jury_knows_only_its_own():
    with pytest.raises(ValueError, match="subject 'nessie', expected one of bubble"):
        jury.drawn(Painter(), "nessie", WORDS)
    with pytest.raises(ValueError, match="kind 'dragon', expected what the judges know: butterfly"):
        jury.drawn(Painter(), "ember", dreambooth.Words("dragon"))


@pytest.mark.parametrize("subject", ["bubble", "ember", "pebble"])
def test_clip_judges_any_other_subject(subject):
    """Here one of the individuals stands for the reader's own."""
    pictures = dreambooth.pictures(subject, 64).images
    own = jury.by_clip(Painter(), pictures, WORDS)
    right, wrong = own.judge(Painter(subject)).scores, own.judge(Painter()).scores
    assert right.subject > 0.85 and right.context > 0.9 and wrong.subject < 0.1
    assert right.prior == pytest.approx(1, abs=0.05)
    forgot = own.judge(Painter(subject, forgetful=True)).scores
    assert forgot.leak > 0.8 and forgot.prior == pytest.approx(1, abs=0.05)
    assert right.leak < 0.1


def test_the_total_is_a_geometric_mean_in_which_the_prior_counts_for_one_at_most():
    assert jury.Scores(0.5, 0.5, 0.5, 0.5).total == pytest.approx(0.5)
    assert jury.Scores(0.9, 0.8, 0.7, 0.4).total == pytest.approx(
        math.exp(sum(map(math.log, (0.9, 0.8, 0.7, 0.6))) / 4)
    )
    assert jury.Scores(1, 1, 1.2, 0).total == 1
    assert jury.Scores(1, 0, 1, 0).total == jury.Scores(1, 1, 1, 1).total == 0


def test_latents_and_pictures_come_from_the_stock_pipeline():
    pipeline = small()
    seed = torch.Generator().manual_seed(5)
    wanted = pipeline(["a fish"] * 2, num_inference_steps=3, generator=seed, output_type="np").images
    found = asking.generate(pipeline, ["a fish"] * 3, seed=5, batch=2, steps=3)
    assert found.shape == (3, 3, 64, 64)
    assert abs((found[:2].permute(0, 2, 3, 1).numpy() + 1) / 2 - wanted).max() < 1e-6


# --- submissions ---


@pytest.fixture(scope="module")
def base():
    return small()


@pytest.fixture
def quick(monkeypatch):
    """Few pictures in few steps, as in a rehearsal."""
    monkeypatch.setenv("COURSE_REHEARSAL", "4")


def shaken(base, way="lora", seed=0):
    """A learner that has learned something, if nothing sensible."""
    torch.manual_seed(seed)
    learner = dreambooth.learner(base, way, rank=2)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape)
    return learner


def entry(subject="ember", claims=MODEST, way="lora", **changes):
    told = {"theme": "animal", "licence": "CC0-1.0, drawn by the course", "words": WORDS} | changes
    return submission.entry(told["theme"], subject, told["words"], told["licence"], way, claims)


def submit(folder, base, told, pictures=None):
    learner = shaken(base, told.way)
    pictures = dreambooth.pictures("ember", 64).images if pictures is None else pictures
    samples = torch.zeros(3, 3, 64, 64)
    return submission.write(folder, learner, told, pictures, samples, ["a sks creature at night"] * 3)


@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_a_submission_is_read_and_drawn_from_again(base, quick, tmp_path, monkeypatch, way):
    monkeypatch.setattr(profile, "fast_bf16", lambda device: False)  # what differs is the weights' rounding
    told = entry(way=way, claims=jury.Scores(0.87654321, 0.5, 1.01, 0.25))
    size = submit(tmp_path / "mine", base, told)
    assert size == sum(f.stat().st_size for f in (tmp_path / "mine").rglob("*.safetensors"))
    again = submission.read(tmp_path / "mine")
    assert again.scores == jury.Scores(0.8765, 0.5, 1.01, 0.25)
    assert again.words == WORDS and (again.theme, again.way, again.scale) == ("animal", way, "mini")
    _, judged = submission.judge(tmp_path / "mine", base, {})
    direct = submission.jury_of(base, told, None).judge(dreambooth.assemble(base, shaken(base, way)))
    assert (judged.named - direct.named).abs().max() < 0.05  # half precision
    assert len(list((tmp_path / "mine" / "pictures").iterdir())) == 6


def test_the_card_is_a_card_of_the_hub_with_all_that_is_asked(base, tmp_path):
    from huggingface_hub import ModelCard

    told = entry(claims=jury.Scores(0.9, 0.8, 0.97, 0.05), licence="CC-BY-4.0 | by me")
    submit(tmp_path / "mine", base, told)
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert {"dreambooth", "lora", submission.TAG} <= set(card.data.tags)
    shares = {"subject": 0.9, "context": 0.8, "prior": 0.97, "leak": 0.05}
    assert card.data.to_dict()["dreambooth"]["scores"] == shares
    for part in (
        "| theme | animal |",
        "ember, asked for as `sks creature`",
        "| licence of the pictures | CC-BY-4.0 \\| by me |",
        "| shows the subject | 90% |",
        "| shows the subject where it was not asked for | 5% |",
        "- `a sks creature at night`",
        "load_lora_weights",
        "samples.png",
    ):
        assert part in card.text, part
    assert card.text.count("`a sks creature at night`") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"theme": "cars"}, "theme 'cars', expected one of animal, science, food, landscape, wildcard"),
        ({"licence": "  "}, "got licence='  ', expected a line of 1 to 200"),
        ({"licence": "x" * 300}, "expected a line of 1 to 200"),
        ({"licence": "two\nlines"}, "expected a line"),
        ({"claims": jury.Scores(-0.1, 0, 0, 0)}, "the subject score -0.1"),
        ({"claims": jury.Scores(0, math.nan, 0, 0)}, "the context score nan"),
        ({"claims": jury.Scores(0, 0, "1", 0)}, "the prior score '1'"),
        ({"claims": jury.Scores(0, 0, 0, None)}, "the leak score None"),
        ({"way": "magic"}, "the way 'magic'"),
    ],
)
def test_what_no_entry_can_be(change, words):
    with pytest.raises(ValueError, match=words):
        entry(**change)


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_the_code_on_the_card_draws_with_what_was_saved(base, quick, tmp_path, monkeypatch, way, scale):
    monkeypatch.setenv("COURSE_SCALE", scale)
    monkeypatch.setattr(checkpoints, "load", lambda kind, name: copy.deepcopy(base))
    told, mine = entry(way=way), tmp_path / "mine"
    submit(mine, base, told)
    base.save_pretrained(tmp_path / "base")
    code = (mine / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert (told.base in code) == (scale == "full") == ("checkpoints" not in code)
    places = {told.base: tmp_path / "base", "this folder or its Hub id": mine}
    for name, place in places.items():
        code = code.replace(f'"{name}"', f'"{place.as_posix()}"')
    done = {}
    exec(code, done)
    assert done["image"].size == (64, 64)
    prompts, few = ["a drawing of a sks creature"] * 2, {"steps": 3, "seed": 5}
    found = asking.generate(done["pipeline"], prompts, **few)
    wanted = asking.generate(dreambooth.load(base, mine), prompts, **few)
    assert (found - wanted).abs().max() < 1e-4
    assert (found - asking.generate(base, prompts, **few)).abs().max() > 1e-3


def test_a_submission_that_cannot_be_written_leaves_the_old_one(base, tmp_path, monkeypatch):
    submit(tmp_path / "mine", base, entry())
    before = (tmp_path / "mine" / "README.md").read_text()
    monkeypatch.setattr(submission, "card", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        submit(tmp_path / "mine", base, entry(theme="food"))
    assert (tmp_path / "mine" / "README.md").read_text() == before
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


# --- the leaderboard ---


def rewrite(folder, change):
    """Change the head of a card."""
    card = folder / "README.md"
    _, head, text = card.read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    change(told)
    card.write_text(f"---\n{yaml.safe_dump(told)}---\n{text}")


def weights_of(folder):
    return folder / "pytorch_lora_weights.safetensors"


def spoil(folder, tensor):
    weights = load_file(weights_of(folder))
    weights[next(iter(weights))] = tensor
    save_file(weights, weights_of(folder))


FAULTS = {
    "no card": (lambda f: (f / "README.md").unlink(), "no README.md"),
    "no head": (lambda f: (f / "README.md").write_text(f"# Mine {submission.TAG}"), "without 'dreambooth:'"),
    "no yaml": (lambda f: (f / "README.md").write_text(f"---\na: [{submission.TAG}\n---\n"), "no YAML"),
    "no scores": (lambda f: rewrite(f, lambda t: t["dreambooth"].pop("scores")), "'scores:'"),
    "half scores": (lambda f: rewrite(f, lambda t: t["dreambooth"]["scores"].pop("prior")), "without prior"),
    "no leak": (lambda f: rewrite(f, lambda t: t["dreambooth"]["scores"].pop("leak")), "without leak"),
    "no licence": (lambda f: rewrite(f, lambda t: t["dreambooth"].pop("licence")), "without licence"),
    "strange word": (
        lambda f: rewrite(f, lambda t: t["dreambooth"].update(identifier="a b")),
        "one rare word",
    ),
    "other kind": (
        lambda f: rewrite(f, lambda t: t["dreambooth"].update(kind="dragon")),
        "what the judges know",
    ),
    "other scale": (lambda f: rewrite(f, lambda t: t["dreambooth"].update(scale="full")), "of scale full"),
    "no weights": (lambda f: weights_of(f).unlink(), "expected what save"),
    "no safetensors": (lambda f: weights_of(f).write_bytes(b"PK pickle"), ""),
    "nan": (lambda f: spoil(f, torch.full((2, 8), math.nan)), "not finite"),
    "other shape": (lambda f: spoil(f, torch.zeros(3, 5)), "does not fit"),
    "two pictures": (lambda f: [p.unlink() for p in sorted((f / "pictures").iterdir())[2:]], "got 2 usable"),
    "no pictures": (lambda f: shutil.rmtree(f / "pictures"), "does not exist"),
    "overclaims": (
        lambda f: rewrite(f, lambda t: t["dreambooth"]["scores"].update(subject=1.0, context=1.0)),
        "claims subject 100%, found",
    ),
}


@pytest.fixture(scope="module")
def board(base, tmp_path_factory):
    """Two fair submissions among one with each fault: where they lie, and the places they got."""
    folder = tmp_path_factory.mktemp("entries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "mini")
        patch.setenv("COURSE_REHEARSAL", "4")
        submit(folder / "a fair one", base, entry())
        own = data.subject("pebble", 4, background="meadow").images
        submit(folder / "z|fair $1$", base, entry("my pebble", theme="wildcard"), own)
        for name, (spoiled, _) in FAULTS.items():
            submit(folder / name, base, entry())
            spoiled(folder / name)
        found = list(leaderboard.find(str(folder)))
        return folder, {place.name: place for place in leaderboard.judge(found, base)}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_submission_is_listed_with_the_reason(board, name):
    place = board[1][name]
    assert FAULTS[name][1] in place.reason and len(place.reason) > 10
    assert name in leaderboard.table(board[1].values()).split("Not ranked:")[1]


def test_fair_submissions_are_ranked_and_drawn(board, tmp_path):
    folder, places = board
    assert len(places) == len(FAULTS) + 2
    fair, others = leaderboard.ranked(places.values())
    assert {p.name for p in fair} == {"a fair one", "z|fair $1$"} and len(others) == len(FAULTS)
    table = leaderboard.table(places.values())
    assert "z\\|fair $1$ | wildcard | my pebble | lora" in table
    picture = leaderboard.draw(places.values())
    assert picture.png()[:4] == b"\x89PNG" and f"{len(FAULTS)} not ranked" in picture.alt
    written = leaderboard.publish(places.values(), tmp_path / "out")
    assert {f.name for f in written.parent.iterdir()} == {"leaderboard.md", "leaderboard.png"}
    assert table in written.read_text()


def test_the_order_is_by_total_then_by_name():
    def place(name, *shares, reason=None):
        return leaderboard.Place(name, scores=jury.Scores(*shares), reason=reason)

    places = [
        place("c", 0.9, 0.9, 0.9, 0.1),
        place("b", 0.5, 0.5, 1, 0),
        place("a", 0.9, 0.9, 0.9, 0.1),
        place("cheat", 1, 1, 1, 0, reason="claims too much"),
        place("zero", 1, 1, 1, 1),
        place("leaky", 1, 1, 1, 0.9),
    ]
    assert [p.name for p in leaderboard.ranked(places)[0]] == ["a", "c", "b", "leaky", "zero"]


def test_a_claim_may_be_a_little_too_high():
    found = jury.Scores(0.9, 0.8, 0.95, 0.1)
    assert leaderboard.overclaimed(jury.Scores(0.95, 0.1, 0.95, 0.1), found) is None
    assert (
        leaderboard.overclaimed(jury.Scores(0.96, 0.9, 0.5, 0.1), found)
        == "claims subject 96%, found 90%; context 90%, found 80%"
    )


def test_of_the_leak_a_claim_may_be_a_little_too_low():
    """One picture of 20, as `mean` of float32 says it, is still a little."""
    found = jury.Scores(1, 1, 1, torch.tensor([1.0] * 8 + [0.0] * 12).mean().item())
    assert leaderboard.overclaimed(jury.Scores(1, 1, 1, 0.35), found) is None
    assert leaderboard.overclaimed(jury.Scores(1, 1, 1, 1.0), found) is None
    assert leaderboard.overclaimed(jury.Scores(1, 1, 1, 0.3), found) == "claims leak 30%, found 40%"


def test_the_same_submission_gets_the_same_scores(board, base, quick):
    again = dict(leaderboard.find(str(board[0])))["a fair one"]
    place = next(leaderboard.judge([("again", again)], base))
    assert place.scores == board[1]["a fair one"].scores


@pytest.fixture
def like_sd(base, monkeypatch):
    loads = []
    monkeypatch.setattr(checkpoints, "load", lambda kind, name, **more: loads.append(name) or base)
    return loads


def test_the_command_prints_and_writes_the_ranking(board, like_sd, quick, tmp_path, capsys):
    shutil.copytree(board[0] / "a fair one", tmp_path / "in" / "one")
    shutil.copytree(board[0] / "no licence", tmp_path / "in" / "two")
    assert script.main([str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert (
        "1 of 2, one: " in told
        and "2 of 2, two: got a card without licence" in told
        and "| 1 | one |" in told
    )
    assert (tmp_path / "out" / "leaderboard.png").exists() and like_sd == ["sd"]


@pytest.mark.parametrize(
    ("where", "words"), [("empty", "holds no submission"), ("no-such-tag", "no model on the Hub")]
)
def test_where_there_is_no_submission(hub, like_sd, listing, tmp_path, monkeypatch, capsys, where, words):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert script.main([where]) == 2
    assert words in capsys.readouterr().err


# --- on the Hub, with its real client ---


@pytest.fixture
def listing(monkeypatch):
    """The Hub's search by tag: every model in whose card it stands."""
    from urllib.parse import parse_qs, urlsplit

    from tests import hub as server

    def models(handler):
        tag = parse_qs(urlsplit(handler.path).query)["filter"][0].encode()
        known = handler.hub.repositories.items()
        found = [n for (kind, n), r in known if kind == "models" and tag in r.files.get("README.md", b"")]
        handler.json([{"id": name, "modelId": name, "tags": []} for name in found])

    monkeypatch.setattr(server, "ROUTES", [("GET", "/api/models", models), *server.ROUTES])


def test_a_submission_is_pushed_found_by_its_tag_and_scored(hub, listing, base, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    hub.tokens[TOKEN] = "learner"
    submit(tmp_path / "mine", base, entry(), None)
    page = submission.push_to_hub(tmp_path / "mine", "learner/my-ember", TOKEN)
    assert page == f"{hub.address}/learner/my-ember"
    there = hub.repositories["models", "learner/my-ember"].files
    here = {
        f.relative_to(tmp_path / "mine").as_posix() for f in (tmp_path / "mine").rglob("*") if f.is_file()
    }
    assert here <= set(there)
    submission.push_to_hub(tmp_path / "mine", "learner/my-ember", TOKEN)  # again: a new version

    hub.repositories["models", "learner/broken"] = type(hub.repositories["models", "learner/my-ember"])(
        {"README.md": there["README.md"]}
    )
    found = dict(leaderboard.find(submission.TAG))
    assert set(found) == {"learner/my-ember", "learner/broken"}
    places = {p.name: p for p in leaderboard.judge(found.items(), base)}
    assert places["learner/my-ember"].reason is None
    assert "it has no *.safetensors" in places["learner/broken"].reason
    local = next(leaderboard.judge([("local", tmp_path / "mine")], base))
    assert places["learner/my-ember"].scores == local.scores
    assert TOKEN not in str(list(tmp_path.rglob("*")))


def test_what_is_too_large_is_not_downloaded(hub, listing, base, tmp_path, monkeypatch):
    hub.tokens[TOKEN] = "learner"
    monkeypatch.setenv("COURSE_SCALE", "mini")
    submit(tmp_path / "mine", base, entry())
    submission.push_to_hub(tmp_path / "mine", "learner/huge", TOKEN)
    monkeypatch.setattr(submission, "MOST_MB", 0.001)
    hub.asked.clear()
    place = next(leaderboard.judge(leaderboard.find(submission.TAG), base))
    assert "MB of files, expected at most" in place.reason
    assert not any("/resolve/" in path for _, path, _ in hub.asked)


def test_a_hub_that_refuses_is_told(hub, base, tmp_path):
    from huggingface_hub.errors import HfHubHTTPError

    submit(tmp_path / "mine", base, entry())
    with pytest.raises(HfHubHTTPError, match="401"):
        submission.push_to_hub(tmp_path / "mine", "learner/my-ember", "hf_wrong")


def test_judges_of_the_course_agree_with_the_table_of_subjects():
    assert scores.load_judge("judge-subjects").questions == {"subject": 4}
