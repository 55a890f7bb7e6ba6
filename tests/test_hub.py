"""Folders with model cards, and the Hub: a stand-in serves downloads, and uploads meet the real API's signature."""

from __future__ import annotations

import http.server
import json
import logging
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bitbayes as bb
import needs
from bitbayes.errors import install_command
from bitbayes.hub import METRICS, ModelCard
from bitbayes.hub.remote import is_id
from bitbayes.hub.render import Content, Description, front_matter, readme
from bitbayes.lab import cli
from bitbayes.packed import PackedFileError, PackedNetwork

hub = needs.HUB.module("huggingface_hub")
hub_errors = needs.HUB.module("huggingface_hub.errors")

TOKEN = "hf_" + "s3cret" * 6
COMMIT, OLD = "c" * 40, "0" * 40
CARD = ModelCard(
    title='A: "title" with # and é, \\ and 数',
    summary="Says one of two classes.",
    license="cc-by-4.0",
    task="image-classification",
    dataset="Two: classes",
    dataset_id="owner/two-classes",
    examples=10_000,
    metrics={"nll": 0.00001, "accuracy": 97.25, "ece": 0.0125},
    validation_accuracy=98.0,
    trained="bitbayes train digits",
    seed=3,
    date="2026-11-28",
    limits=("It is no doctor.",),
    tags=("example",),
)


def packed(samples=0, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False), bb.nn.LogitScale(2.0))
    optimizer = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=seed)
    optimizer.eval()
    inputs = bb.packed.Inputs("image", colour="grey", height=4, width=4, classes=("no", "yes"))
    posterior = optimizer.posterior() if samples else None
    about = {"rule": "bayesbinn"}
    flat = torch.nn.Sequential(torch.nn.Flatten(), *model)
    if posterior is not None:
        posterior = bb.BernoulliPosterior({"1.weight": posterior.natural["0.weight"]})
    return bb.pack(flat, torch.zeros(1, 1, 4, 4), posterior, samples, about=about, inputs=inputs)


def posteriors():
    g = torch.Generator().manual_seed(0)
    center = {"a.weight": torch.randn(3, 4, generator=g), "b": torch.randn(5, generator=g)}
    factors = {name: torch.randn(2, *m.shape, generator=g) for name, m in center.items()}
    simple = [bb.BernoulliPosterior(center), bb.LowRankGaussianPosterior(center, factors, shared="network")]
    samples = bb.SamplePosterior.of_samples(simple[0], 9)
    return [*simple, samples, bb.Mixture([samples, *simple], [2, 1, 1])]


# Folders. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        (bb.SamplePosterior, "| networks | 9, one bit per weight |"),
        (
            bb.Mixture,
            "| components | SamplePosterior (0.5), BernoulliPosterior (0.25), LowRankGaussianPosterior (0.25) |",
        ),
    ],
)
def test_a_card_has_the_facts_of_the_family(kind, fact, tmp_path):
    (posterior,) = (each for each in posteriors() if type(each) is kind)
    posterior.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert fact in text and f"bb.{kind.__name__}.from_pretrained" in text


@pytest.mark.parametrize("samples", [0, 3])
def test_a_packed_network_comes_back_from_a_folder(samples, tmp_path):
    network, x = packed(samples), np.random.default_rng(0).normal(size=(5, 1, 4, 4)).astype(np.float32)
    network.save_pretrained(tmp_path / "made" / "net", card=CARD)
    network.save(tmp_path / "plain.safetensors")
    folder = tmp_path / "made" / "net"
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    back = PackedNetwork.from_pretrained(folder)
    np.testing.assert_array_equal(bb.packed.load(back).outputs(x), bb.packed.load(network).outputs(x))
    assert back.program == network.program


@pytest.mark.parametrize("posterior", posteriors(), ids=lambda q: type(q).__name__)
def test_a_posterior_comes_back_from_a_folder(posterior, tmp_path):
    posterior.save_pretrained(tmp_path)
    for kind in (type(posterior), bb.Posterior):
        back = kind.from_pretrained(str(tmp_path))
        assert type(back) is type(posterior)
        for name, weights in posterior.sample(3, seed=1).items():
            assert torch.equal(back.sample(3, seed=1)[name], weights)
    other = ({bb.BernoulliPosterior, bb.LowRankGaussianPosterior} - {type(posterior)}).pop()
    with pytest.raises(ValueError, match="its format is"):
        other.from_pretrained(tmp_path)


def test_one_card_describes_both_files_of_a_folder(tmp_path):
    packed().save_pretrained(tmp_path, card=CARD, repo_id="owner/name")
    posteriors()[0].save_pretrained(tmp_path, repo_id="owner/name")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for words in (
        "97.25 %",
        "98.00 %",
        "10,000 test examples of Two: classes",
        'bb.packed.PackedNetwork.from_pretrained("owner/name")',
        'bb.BernoulliPosterior.from_pretrained("owner/name")',
        "bitbayes run hub:owner/name picture.png",
        "`a.weight` (3×4)",
        "| rule | bayesbinn |",
        "`cc-by-4.0`",
        "It is no doctor.",
        "bitbayes train digits",
    ):
        assert words in text, words
    for file in ("model.safetensors", "posterior.safetensors"):
        size = (tmp_path / file).stat().st_size
        assert f"| `{file}` |" in text and f"| {size:,} |" in text
    packed(3).save_pretrained(tmp_path)  # its card and its other file are still described
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert CARD.title in text and "3, whose predictions are averaged" in text and "posterior.safetensors" in text
    assert "97.25 %" not in text and "The author stated no figures." in text, "they are those of the earlier file"
    assert 'from_pretrained("FOLDER")' in text and "mutual information" in text


def test_the_python_of_a_card_runs(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    packed().save_pretrained("FOLDER")
    Image.new("L", (4, 4), 200).save("picture.png")
    text = Path("FOLDER", "README.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.split()[0] in ("no", "yes")


# The card. ----------------------------------------------------------------------------------------------------------


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    """Read back by PyYAML and by the Hub's own classes."""
    packed().save_pretrained(tmp_path, card=CARD)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    read = needs.YAML.module("yaml").safe_load(text.split("---\n")[1])
    assert read == front_matter(Content(card=CARD))
    assert read["license"] == "cc-by-4.0" and read["library_name"] == "bitbayes" and "example" in read["tags"]
    data = hub.ModelCard(text).data
    assert data.model_name == CARD.title and data.datasets == ["owner/two-classes"]
    figures = {each.metric_type: each.metric_value for each in data.eval_results}
    assert figures == {"accuracy": 0.9725, "nll": 0.00001, "expected_calibration_error": 0.0125}
    assert {each.dataset_name for each in data.eval_results} == {"Two: classes"}


def test_a_card_of_nothing_is_still_a_card():
    text = readme(Content(files={"model.safetensors": Description(kind="packed network")}))
    read = needs.YAML.module("yaml").safe_load(text.split("---\n")[1])
    assert set(read) == {"library_name", "tags"}
    assert "The author stated no figures." in text and "The author named no licence." in text


def test_an_edited_card_stays_until_a_card_is_given(tmp_path):
    page = tmp_path / "README.md"
    packed().save_pretrained(tmp_path)
    packed().save_pretrained(tmp_path, card=CARD)
    assert "97.25" in page.read_text(encoding="utf-8")
    page.write_text("mine", encoding="utf-8")
    packed(3).save_pretrained(tmp_path)
    assert page.read_text(encoding="utf-8") == "mine"
    assert "3, whose predictions" in (tmp_path / "config.json").read_text(encoding="utf-8")
    packed(3).save_pretrained(tmp_path, card=CARD)
    assert "97.25" in page.read_text(encoding="utf-8")


def test_a_card_that_nobody_edited_is_renewed_by_a_later_version(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    with monkeypatch.context() as earlier:
        earlier.setattr("bitbayes.hub.pretrained.readme", lambda content: "the words of an earlier version\n")
        packed().save_pretrained(tmp_path)
    assert page.read_text(encoding="utf-8") == "the words of an earlier version\n"
    packed(3).save_pretrained(tmp_path)
    assert "3, whose predictions" in page.read_text(encoding="utf-8")
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))  # as version control may do
    packed().save_pretrained(tmp_path)
    assert "3, whose predictions" not in page.read_text(encoding="utf-8")
    page.write_bytes(b"\xff mine")
    packed(3).save_pretrained(tmp_path)
    assert page.read_bytes() == b"\xff mine"


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "no JSON",
        '{"model_type": "bert"}',
        '{"library_name": "bitbayes", "card": {}, "files": []}',
        '{"library_name": "bitbayes", "card": {"metrics": {"nll": 1' + "0" * 400 + '}}, "files": {}}',
        '{"library_name": "bitbayes", "card": {}, "files": {"model.safetensors": {"kind": "", "facts": [], '
        '"python": [], "commands": [], "limits": [], "sha256": "", "bytes": Infinity}}}',
    ],
)
def test_the_config_of_something_else_is_not_replaced(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="was not written by save_pretrained") as refused:
        packed().save_pretrained(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": {"acuracy": 1.0}}, "no metric is called 'acuracy'; did you mean 'accuracy'"),
        ({"metrics": {"accuracy": float("nan")}}, "finite number"),
        ({"metrics": {"accuracy": True}}, "finite number"),
        ({"metrics": {"nll": 10**400}}, "finite number"),
        ({"validation_accuracy": np.float32("inf")}, "finite number"),
        ({"license": "My own license"}, "identifier of the Hub"),
        ({"title": 3}, "title of a model card must be"),
        ({"title": "a\x1b[31m"}, "title of a model card must be"),
        ({"limits": "one sentence"}, "list of texts"),
        ({"seed": 0.5}, "whole number"),
    ],
)
def test_a_wrong_card_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModelCard(**wrong)


def test_a_card_takes_the_numbers_of_numpy(tmp_path):
    numbers = {"accuracy": np.float32(97.5), "nll": np.float64(0.25), "ece": 0}
    card = ModelCard(metrics=numbers, validation_accuracy=np.float32(98), examples=np.int64(100), seed=np.int32(3))
    packed().save_pretrained(tmp_path, card=card)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "97.50 %" in text and "98.00 %" in text and "on 100 test examples" in text
    assert ModelCard.from_dict(json.loads((tmp_path / "config.json").read_text())["card"]) == card
    assert card.metrics is not numbers and all(type(value) is float for value in card.metrics.values())


def test_a_card_comes_back_from_json():
    assert ModelCard.from_dict(json.loads(json.dumps(CARD.to_dict()))) == CARD
    assert set(METRICS) >= set(CARD.metrics)


# A stand-in for the Hub. --------------------------------------------------------------------------------------------


class Hub(http.server.ThreadingHTTPServer):
    """Serves files by (repository, revision, name), and notes what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.asked, self.private = {}, [], set()

    def add(self, repo, revision, name, content, commit=COMMIT):
        self.files[repo, revision, name] = commit, content


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        self.server.asked.append((self.command, repo, revision, name, self.headers.get("Authorization")))
        error, found = "", self.server.files.get((repo, revision, name))
        if repo == "owner/gated":
            error = "GatedRepo"
        elif repo not in {key[0] for key in self.server.files}:
            error = "RepoNotFound"
        elif repo in self.server.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            error = "RepoNotFound"
        elif revision not in {key[1] for key in self.server.files if key[0] == repo}:
            error = "RevisionNotFound"
        elif found is None:
            error = "EntryNotFound"
        self.send_response({"": 200, "GatedRepo": 403}.get(error, 404))
        commit, content = found or (COMMIT, b"")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hash(content):x}"')
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()


def content_of(item, folder):
    item.save(folder / "file")
    return (folder / "file").read_bytes()


def test_a_download_is_one_file_of_one_revision(server, tmp_path):
    new, old = content_of(packed(seed=1), tmp_path), content_of(packed(seed=2), tmp_path)
    server.add("owner/name", "main", "model.safetensors", new)
    server.add("owner/name", OLD, "model.safetensors", old, OLD)
    for file in ("pytorch_model.bin", "config.json", "README.md"):
        server.add("owner/name", "main", file, b"\x80hostile")
    for options, content in (({}, new), ({"revision": OLD}, old), ({"local_files_only": True}, new)):
        found = PackedNetwork.from_pretrained("owner/name", **options)
        assert content_of(found, tmp_path) == content
    asked = {(revision, name) for _, _, revision, name, _ in server.asked}
    assert asked == {("main", "model.safetensors"), (OLD, "model.safetensors")}
    other = PackedNetwork.from_pretrained("owner/name", cache_dir=tmp_path / "elsewhere")
    assert content_of(other, tmp_path) == new and (tmp_path / "elsewhere").is_dir()


def test_a_posterior_is_downloaded(server, tmp_path):
    posterior = posteriors()[1]
    server.add("owner/name", "main", "posterior.safetensors", content_of(posterior, tmp_path))
    found = bb.Posterior.from_pretrained("owner/name")
    assert repr(found) == repr(posterior) and torch.equal(found.natural["b"], posterior.natural["b"])


def test_a_token_is_sent_and_written_nowhere(server, tmp_path):
    server.add("owner/secret", "main", "model.safetensors", content_of(packed(), tmp_path))
    server.private.add("owner/secret")
    with pytest.raises(FileNotFoundError, match="give a token= that may read it"):
        PackedNetwork.from_pretrained("owner/secret", token=False)
    found = PackedNetwork.from_pretrained("owner/secret", token=TOKEN)
    assert server.asked[-1][-1] == f"Bearer {TOKEN}"
    found.save_pretrained(tmp_path / "again", repo_id="owner/secret")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5 and not any(TOKEN.encode() in path.read_bytes() for path in files)
    with pytest.raises(FileNotFoundError) as refused:
        PackedNetwork.from_pretrained(f"owner/{TOKEN}", token=TOKEN, revision="x")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("wrong", [f"{TOKEN}\n", f"{TOKEN[:9]} {TOKEN[9:]}", f"{TOKEN}\x00", f"{TOKEN}é", ""])
def test_a_token_that_no_header_takes_is_refused_without_quoting_it(wrong, server, tmp_path):
    """Such as one that was read from a file and not stripped."""
    server.add("owner/name", "main", "model.safetensors", content_of(packed(), tmp_path))
    packed().save_pretrained(tmp_path / "net")
    calls = [
        lambda: PackedNetwork.from_pretrained("owner/name", token=wrong),
        lambda: packed().push_to_hub("owner/name", token=wrong),
        lambda: bb.hub.push(tmp_path / "net", "owner/name", token=wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="strip what you read") as refused:
            call()
        assert TOKEN[:9] not in "".join(traceback.format_exception(refused.value))
    assert not server.asked


def test_a_token_that_the_answer_repeats_is_not_in_the_traceback(server):
    server.add("owner/name", "main", "model.safetensors", b"")
    answer = hub_errors.HfHubHTTPError(f"no right for {TOKEN}", response=mock.MagicMock(status_code=403))
    with mock.patch.object(hub, "hf_hub_download", side_effect=answer), pytest.raises(PermissionError) as refused:
        PackedNetwork.from_pretrained("owner/name", token=TOKEN)
    told = "".join(traceback.format_exception(refused.value))
    assert "(token)" in told and TOKEN not in told


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x80\x04N.", (1 << 62).to_bytes(8, "little") + b"{}"])
def test_a_hostile_download_is_refused_in_one_line(content, server):
    server.add("owner/name", "main", "model.safetensors", content)
    server.add("owner/name", "main", "posterior.safetensors", content)
    for kind, error in ((PackedNetwork, PackedFileError), (bb.Posterior, ValueError)):
        with pytest.raises(error) as refused:
            kind.from_pretrained("owner/name")
        assert len(str(refused.value).splitlines()) == 1


def test_a_damaged_download_is_refused(server, tmp_path):
    for item, name in ((packed(), "model.safetensors"), (posteriors()[0], "posterior.safetensors")):
        content = bytearray(content_of(item, tmp_path))
        content[-1] ^= 1
        server.add("owner/name", "main", name, bytes(content))
        with pytest.raises(ValueError, match="SHA-256"):
            type(item).from_pretrained("owner/name")


@pytest.mark.parametrize(
    ("scale", "about", "message"),
    [
        ({"w": torch.ones(7)}, {}, "shape \\(7,\\), which does not broadcast to \\(3,\\)"),
        ({"w": torch.ones(3, 3)}, {}, "does not broadcast"),
        ({"w": torch.full((3,), torch.inf)}, {}, "positive and finite"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, {}, "floating point"),
        ({"v": torch.ones(3)}, {}, "unknown tensors"),
        ({}, {}, "it has no scale"),
        ({}, {"scale": "1"}, "it has no part 'scale'"),
    ],
)
def test_a_posterior_that_cannot_be_is_refused(scale, about, message, tmp_path):
    tensors = {"natural/w": torch.zeros(3)} | {f"scale/{name}": value for name, value in scale.items()}
    metadata = {"format": bb.BernoulliPosterior.FORMAT, **about}
    save_file(tensors, tmp_path / "posterior.safetensors", metadata=metadata)
    for kind in (bb.Posterior, bb.BernoulliPosterior):
        with pytest.raises(ValueError, match=message) as refused:
            kind.from_pretrained(tmp_path)
        assert "posterior.safetensors" in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("owner/absent", {}, FileNotFoundError, "no owner/absent on the Hub"),
        ("owner/name", {"revision": "v9"}, FileNotFoundError, "no owner/name at revision v9 on the Hub"),
        ("owner/other", {}, FileNotFoundError, "owner/other on the Hub has no model.safetensors"),
        ("owner/gated", {}, PermissionError, "accept its terms"),
        ("owner/name", {"local_files_only": True}, FileNotFoundError, "leave local_files_only out"),
        ("nothing", {}, FileNotFoundError, "no folder nothing, and it is no id on the Hub, which would be OWNER/NAME"),
        (Path("owner/name"), {}, FileNotFoundError, "no folder owner"),
        ("../owner/name", {}, FileNotFoundError, "it is no id on the Hub"),
        (".", {}, FileNotFoundError, "has no model.safetensors; save_pretrained writes it"),
        (".", {"revision": COMMIT}, ValueError, "leave revision out"),
    ],
)
def test_what_is_not_found_is_said_in_one_line(source, options, error, message, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.add("owner/name", "main", "model.safetensors", b"")
    server.add("owner/other", "main", "posterior.safetensors", b"")
    with pytest.raises(error) as refused:
        PackedNetwork.from_pretrained(source, **options)
    assert message in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_without_a_connection_there_is_one_line(server, monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between several tries
    logger, heard = logging.getLogger("huggingface_hub.utils._http"), []
    monkeypatch.setattr(logger, "handle", heard.append)
    level = logger.level
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"owner/name on the Hub: .*a local folder works offline") as refused:
        PackedNetwork.from_pretrained("owner/name")
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(ConnectionError, match=r"cannot fetch config\.json of owner/name on the Hub") as refused:
        packed().push_to_hub("owner/name", token=TOKEN)
    assert len(str(refused.value).splitlines()) == 1 and TOKEN not in str(refused.value)
    packed().save_pretrained(tmp_path / "net")
    with pytest.raises(ConnectionError, match="the exchange with owner/name on the Hub failed") as refused:
        bb.hub.push(tmp_path / "net", "owner/name", token=TOKEN)
    assert len(str(refused.value).splitlines()) == 1 and TOKEN not in str(refused.value)
    assert heard == [] and logger.level == level


def test_without_the_extra_the_hint_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: PackedNetwork.from_pretrained("owner/name"), lambda: packed().push_to_hub("owner/name")):
        with pytest.raises(ImportError) as refused:
            call()
        assert install_command("hub") in str(refused.value)
    packed().save_pretrained(tmp_path)
    assert PackedNetwork.from_pretrained(tmp_path).program == packed().program


# Uploads. -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(request, monkeypatch, tmp_path):
    """An HfApi that takes what the real one takes, and keeps the files that it would send."""
    sent = tmp_path / "sent"

    def upload_folder(self, *, folder_path, allow_patterns, **_):
        names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        for name in hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            (sent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path, name), sent / name)
        return SimpleNamespace(oid=COMMIT)

    if "server" not in request.fixturenames:  # which has what is on the Hub; nothing is there otherwise
        absent = hub_errors.RepositoryNotFoundError("no", response=mock.MagicMock())
        monkeypatch.setattr(hub, "hf_hub_download", mock.Mock(side_effect=absent))
    made = mock.MagicMock()
    made.init = mock.create_autospec(hub.HfApi.__init__, return_value=None)
    made.create_repo = mock.create_autospec(hub.HfApi.create_repo)
    made.upload_folder = mock.create_autospec(hub.HfApi.upload_folder, side_effect=upload_folder)
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(hub.HfApi, name, getattr(made, name))
    monkeypatch.setattr(hub.HfApi, "__init__", made.init)
    made.sent = sent
    return made


@pytest.mark.parametrize("item", [packed(), *posteriors()], ids=lambda item: type(item).__name__)
def test_an_upload_is_the_folder(item, api):
    commit = item.push_to_hub("owner/name", card=CARD, private=True, token=TOKEN, revision="dev", message="Hello")
    assert commit == COMMIT
    assert api.init.call_args.kwargs["token"] == TOKEN
    assert api.create_repo.call_args.args[1:] == ("owner/name",)
    assert api.create_repo.call_args.kwargs == {"private": True, "exist_ok": True}
    told = api.upload_folder.call_args.kwargs
    assert (told["repo_id"], told["revision"], told["commit_message"]) == ("owner/name", "dev", "Hello")
    assert told["create_pr"] is False and not Path(told["folder_path"]).exists()
    assert {path.name for path in api.sent.iterdir()} == {"README.md", "config.json", item.PRETRAINED}
    back = type(item).from_pretrained(api.sent)
    assert repr(back) == repr(item)
    text = (api.sent / "README.md").read_text(encoding="utf-8")
    assert "97.25 %" in text and 'from_pretrained("owner/name")' in text
    assert not any(TOKEN.encode() in path.read_bytes() for path in api.sent.iterdir())


def upload(item, api, server, revision="main", **options):
    """Push to the stand-in, which then serves what was sent."""
    item.push_to_hub("owner/name", revision=None if revision == "main" else revision, **options)
    commit = f"{len(server.asked):040x}"
    for path in api.sent.iterdir():
        server.add("owner/name", revision, path.name, path.read_bytes(), commit)
        path.unlink()


def on_the_hub(server, file, revision="main"):
    return server.files["owner/name", revision, file][1].decode()


def test_a_second_upload_keeps_what_the_first_said(api, server):
    upload(packed(), api, server, card=CARD, token=TOKEN)
    upload(posteriors()[0], api, server, token=TOKEN)
    for file in ("README.md", "config.json"):
        text = on_the_hub(server, file)
        for words in ("cc-by-4.0", "model.safetensors", "posterior.safetensors", "It is no doctor."):
            assert words in text, words
    assert {asked[-1] for asked in server.asked} == {f"Bearer {TOKEN}"}
    card = ModelCard(title="Other", license="mit")
    upload(posteriors()[0], api, server, card=card)
    assert "cc-by-4.0" not in on_the_hub(server, "README.md") and "`mit`" in on_the_hub(server, "README.md")


def test_an_upload_keeps_a_card_that_was_edited_on_the_hub(api, server):
    upload(packed(), api, server, card=CARD)
    server.add("owner/name", "main", "README.md", b"edited on its page")
    upload(packed(3), api, server)
    assert on_the_hub(server, "README.md") == "edited on its page"
    assert "3, whose predictions" in on_the_hub(server, "config.json")
    upload(packed(3), api, server, card=CARD)
    assert "97.25 %" in on_the_hub(server, "README.md")


def test_an_upload_to_a_branch_keeps_the_card_of_the_branch(api, server):
    for revision, title in (("main", "Of the main branch"), ("dev", "Of the branch")):
        server.add("owner/name", revision, "README.md", b"edited")
        upload(packed(), api, server, revision, card=ModelCard(title=title))
    upload(posteriors()[0], api, server, "dev")
    assert "# Of the branch" in on_the_hub(server, "README.md", "dev")
    assert "# Of the main branch" in on_the_hub(server, "README.md")


def test_an_upload_does_not_replace_the_config_of_something_else(api, server):
    server.add("owner/name", "main", "config.json", b'{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"owner/name/config\.json was not written by save_pretrained") as refused:
        packed().push_to_hub("owner/name")
    assert len(str(refused.value).splitlines()) == 1 and not api.upload_folder.called


def test_an_upload_of_a_folder_leaves_other_files_here(api, tmp_path):
    folder = tmp_path / "folder"
    packed().save_pretrained(folder)
    (folder / ".env").write_text("TOKEN=1")
    (folder / "checkpoint.pt").write_bytes(b"much")
    for inside in (folder / "inside", folder / ".cache"):
        inside.mkdir()
        for name in ("README.md", "secret.safetensors"):
            (inside / name).write_text("private")
    (folder / "[a].safetensors").write_bytes(b"an odd name")
    (folder / "a.safetensors").mkdir()
    assert bb.hub.push(folder, "owner/name", create_pr=True) == COMMIT
    names = {str(path.relative_to(api.sent)) for path in api.sent.rglob("*") if path.is_file()}
    assert names == {"README.md", "config.json", "model.safetensors", "[a].safetensors"}
    assert api.upload_folder.call_args.kwargs["create_pr"] is True


@pytest.mark.parametrize(
    "text",
    [
        *("o/n", "_o/n", "o/_n", "o/n_", "o/n.git", "o/n-", "o/n.", "o-/n", ".o/n", "-o/n", "o/.n", "o--o/n", "o/n..n"),
        *("o/", "/n", "o/n/m", "o/n m", "o/n\n", "o.git/n", "o/gitgit"),
        *(f"{'o' * 96}/{'n' * 96}", f"o/{'n' * 97}", f"{'o' * 97}/n"),
    ],
)
def test_an_id_is_what_the_library_of_the_hub_takes(text):
    try:
        hub.utils.validate_repo_id(text)
    except hub.utils.HFValidationError:
        assert not is_id(text)
    else:
        assert is_id(text)


@pytest.mark.parametrize("wrong", ["name", "owner/name/more", "../name", "owner/na me", ""])
def test_a_wrong_id_is_refused_before_anything_is_sent(wrong, api):
    with pytest.raises(ValueError, match="an id on the Hub is OWNER/NAME"):
        packed().push_to_hub(wrong)
    with pytest.raises(ValueError, match="an id on the Hub is OWNER/NAME"):
        bb.hub.push(".", wrong)
    assert not api.init.called


# Commands, and no torch. --------------------------------------------------------------------------------------------


def test_commands_take_networks_of_the_hub_and_folders(server, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    server.add("owner/name", COMMIT, "model.safetensors", content_of(packed(), tmp_path))
    Image.new("L", (4, 4), 200).save("picture.png")
    packed().save_pretrained("folder")
    Path("owner/name").mkdir(parents=True)  # hub: means the Hub
    for source in (f"hub:owner/name@{COMMIT}", "folder", "folder/model.safetensors"):
        assert cli.main(["run", source, "picture.png", "--backend", "reference"]) == 0
        assert capsys.readouterr().out.split("\t")[1] in ("no", "yes")
    assert cli.main(["run", "hub:owner/name", "picture.png"]) == 1  # not on the main branch
    error = capsys.readouterr().err
    assert "no owner/name on the Hub" in error and len(error.splitlines()) == 1
    assert cli.main(["summary", "hub:name"]) == 2
    assert "an id on the Hub is OWNER/NAME, such as" in capsys.readouterr().err


def test_packed_networks_need_no_torch(tmp_path):
    packed().save_pretrained(tmp_path / "net")
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "from bitbayes.packed import PackedNetwork, load\n"
        f"network = PackedNetwork.from_pretrained({str(tmp_path / 'net')!r})\n"
        f"network.save_pretrained({str(tmp_path / 'again')!r})\n"
        "print(load(network).outputs(np.zeros((2, 1, 4, 4), np.float32)).shape)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "(1, 2, 2)\n", result.stderr
    assert (tmp_path / "again" / "README.md").is_file()
