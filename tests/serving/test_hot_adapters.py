"""Adapters that come and go while the server answers."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tasks.contract.programs.image import PushConfig
from tasks.contract.programs.serving import AdapterSource, ServerConfig
from tasks.image.pod.push import push_image
from tests.serving import toy
from tests.serving.hot import load, names, root, text, unload
from tests.serving.running import Running, serve

# Matched with a name that it does not fit, it tries all ways to take the name apart.
ENDLESS = r"((([a-z]|_|\.|\d)*)*)*"


@pytest.mark.both_engines
def test_vllms_clients_load_and_unload(hot: Running) -> None:
    loaded = load(hot, "first", "first")
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'first' added successfully.",
    )
    assert names(hot) == ["toy", "first"]
    unloaded = unload(hot, "first")
    assert unloaded.text == "Success: LoRA adapter 'first' removed successfully."
    assert names(hot) == ["toy"]
    assert hot.chat("the cat", model="first").status_code == 404


def test_an_adapter_that_came_later_answers_as_one_that_was_there_from_the_start(
    hot: Running, server: Running
) -> None:
    load(hot, "first", "first")
    load(hot, "second", str(root(hot) / "second"))
    for mine, theirs in (("first", "first"), ("second", "second.v2"), ("toy", "toy")):
        assert text(hot.chat("the cat", model=mine)) == text(server.chat("the cat", model=theirs))


@pytest.mark.both_engines
def test_the_base_says_the_same_before_beside_and_after_an_adapter(hot: Running) -> None:
    before = text(hot.chat("the dog", model="toy"))
    load(hot, "first", "first")
    assert text(hot.chat("the dog", model="first")) != before
    assert text(hot.chat("the dog", model="toy")) == before
    unload(hot, "first")
    assert text(hot.chat("the dog", model="toy")) == before
    assert load(hot, "second", "second").status_code == 200
    assert text(hot.chat("the dog", model="toy")) == before


def test_every_answer_says_which_weights_gave_it(hot: Running) -> None:
    load(hot, "mine", "first")
    base, first = hot.chat("the cat", model="toy"), hot.chat("the cat", model="mine")
    assert (base.headers["x-kaitoflow-generation"], base.json()["system_fingerprint"]) == (
        "toy",
        None,
    )
    assert first.headers["x-kaitoflow-generation"] == "mine"
    load(hot, "mine", "second", load_inplace=True)
    second = hot.chat("the cat", model="mine", stream=True)
    chunk = json.loads(second.text.splitlines()[0].removeprefix("data: "))
    assert chunk["model"] == first.json()["model"] == "mine"
    assert chunk["system_fingerprint"] != first.json()["system_fingerprint"]
    assert second.headers["x-kaitoflow-generation"] != "mine"


@pytest.mark.both_engines
def test_a_request_under_way_ends_on_the_adapter_that_it_began_on(
    hot: Running, until: Callable[..., None]
) -> None:
    load(hot, "mine", "first")
    long = {"model": "mine", "max_tokens": 400, "min_tokens": 400}
    alone = text(hot.chat("the cat", **long))
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(text(hot.chat("the cat", **long))))
    asking.start()
    until(lambda: hot.engine.load().running == 1)
    assert load(hot, "mine", "second", load_inplace=True).status_code == 200
    assert not said
    assert text(hot.chat("the cat", model="mine")) != alone[:12]
    asking.join()
    assert said == [alone]
    until(lambda: len(hot.engine.models) == 2)
    assert names(hot) == ["toy", "mine"]


def test_unloading_waits_for_what_runs_and_takes_no_more(
    hot: Running, until: Callable[..., None]
) -> None:
    load(hot, "mine", "first")
    long = {"model": "mine", "max_tokens": 400, "min_tokens": 400}
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(text(hot.chat("the cat", **long))))
    asking.start()
    until(lambda: hot.engine.load().running == 1)
    going: list[int] = []
    leaving = threading.Thread(target=lambda: going.append(unload(hot, "mine").status_code))
    leaving.start()
    until(lambda: names(hot) == ["toy"])
    assert hot.chat("the cat", model="mine").status_code == 404
    assert not going
    leaving.join()
    assert going == [200]
    asking.join()
    assert len(said) == 1


def edit(folder: Path, **fields: object) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"base_model_name_or_path": "microsoft/phi-3"}, "made for microsoft/phi-3"),
        ({"use_dora": True}, "it has use_dora"),
        ({"modules_to_save": ["lm_head"]}, "it has modules_to_save"),
        ({"init_lora_weights": "pissa"}, "a base that pissa has changed"),
        ({"r": 8}, "says rank 8"),
        ({"peft_type": "IA3"}, "only LORA can be served"),
        ({"target_modules": f"{ENDLESS}!"}, "that cannot be matched with the model's (it takes"),
        ({"rank_pattern": {f"{ENDLESS}!": 4}}, "that cannot be matched with the model's (it takes"),
        ({"exclude_modules": "(("}, "that cannot be matched with the model's (missing"),
        ({"note": "x" * 2**24}, "adapter_config.json has over 16,777,216 characters"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_served_beside_the_others_is_refused_and_changes_nothing(
    hot: Running, fields: dict[str, object], told: str
) -> None:
    before = text(hot.chat("the cat"))
    edit(root(hot) / "first", **fields)
    refused = load(hot, "mine", "first")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "AdapterMismatch")
    assert told in refused.json()["error"]["message"]
    assert names(hot) == ["toy"]
    assert text(hot.chat("the cat")) == before


def test_layers_may_be_named_by_expressions_that_end(hot: Running) -> None:
    load(hot, "plain", "first")
    named = {
        "target_modules": ".*(q_proj|v_proj|down_proj)",
        "alpha_pattern": {"layers.[01].*": 16},
    }
    edit(root(hot) / "first", **named)
    assert load(hot, "expressed", "first").status_code == 200
    answers = [text(hot.chat("the cat", model=name)) for name in ("expressed", "plain")]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' | center(99999999999) }}",
        "x" * (2**24 + 1),
    ],
    ids=["loops", "memory", "long"],
)
def test_a_chat_template_that_does_not_end_is_refused_with_its_adapter(
    hot: Running, template: str
) -> None:
    (root(hot) / "first" / "chat_template.jinja").write_text(template)
    refused = load(hot, "mine", "first")
    assert refused.status_code == 400
    assert "brings a chat template; it cannot be used" in refused.json()["error"]["message"]
    assert names(hot) == ["toy"]
    assert hot.chat("the cat").status_code == 200


def test_messages_that_a_template_does_not_end_for_are_a_400(hot: Running) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = "{{ messages[0].content }}{% if messages[0].content == 'loop' %}" + loops
    (root(hot) / "first" / "chat_template.jinja").write_text(template + "{% endif %}")
    assert load(hot, "mine", "first").status_code == 200
    refused = hot.chat("loop", model="mine")
    assert refused.status_code == 400
    assert "it takes over 2 s" in refused.json()["error"]["message"]
    assert hot.chat("the cat", model="mine").status_code == 200


@pytest.mark.both_engines
def test_weights_that_are_no_numbers_are_refused(hot: Running) -> None:
    before = text(hot.chat("the cat"))
    path = root(hot) / "first" / "adapter_model.safetensors"
    weights = {name: tensor * float("nan") for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert "are no numbers" in load(hot, "mine", "first").text
    assert names(hot) == ["toy"]
    assert text(hot.chat("the cat")) == before


def test_an_adapter_of_another_architecture_is_refused(hot: Running, tmp_path: Path) -> None:
    wide = toy.make_model(tmp_path / "wide", hidden=64)
    toy.make_adapter(root(hot) / "wide", wide)
    assert "the base model has" in load(hot, "wide", "wide").text
    assert names(hot) == ["toy"]


@pytest.mark.parametrize("path", ["/etc", "..", "../outside", ".", "linked", "first/../../outside"])
def test_only_what_lies_below_the_adapters_folder_is_read(hot: Running, path: str) -> None:
    outside = root(hot).parent / "outside"
    shutil.copytree(root(hot) / "first", outside)
    (root(hot) / "linked").symlink_to(outside)
    refused = load(hot, "mine", path)
    assert refused.status_code == 400
    assert "from below" in refused.json()["error"]["message"]


def test_a_link_inside_an_adapter_leads_nowhere_else(hot: Running) -> None:
    weights = root(hot) / "first" / "adapter_model.safetensors"
    weights.rename(root(hot).parent / "elsewhere")
    weights.symlink_to(root(hot).parent / "elsewhere")
    assert "from below" in load(hot, "mine", "first").text


def test_an_adapter_comes_out_of_an_image(hot: Running, tmp_path: Path) -> None:
    layout = tmp_path / "images"
    push_image(
        PushConfig(
            adapter_dir=root(hot) / "first",
            reference="registry.example.com/mine:2",
            layout_dir=layout,
        )
    )
    object.__setattr__(hot.config, "images_dir", layout)
    assert load(hot, "mine", "registry.example.com/mine:2").status_code == 200
    load(hot, "first", "first")
    assert text(hot.chat("the cat", model="mine")) == text(hot.chat("the cat", model="first"))


def test_a_registry_that_does_not_answer_is_told_and_changes_nothing(hot: Running) -> None:
    object.__setattr__(hot.config, "pull_patience_s", 0.0)
    refused = load(hot, "mine", "127.0.0.1:9/mine:2")
    assert refused.status_code == 503
    assert "127.0.0.1:9" in refused.json()["error"]["message"]
    assert names(hot) == ["toy"]


def test_a_folder_that_is_not_there_is_a_404(hot: Running) -> None:
    assert load(hot, "mine", "third").status_code == 404


def test_a_taken_name_is_refused_unless_it_is_replaced(hot: Running) -> None:
    load(hot, "mine", "first")
    assert "set load_inplace" in load(hot, "mine", "second").json()["error"]["message"]
    assert load(hot, "toy", "first", load_inplace=True).status_code == 400
    assert load(hot, "no spaces", "first").status_code == 400
    assert unload(hot, "toy").status_code == unload(hot, "yours").status_code == 404


@pytest.mark.parametrize("key", ["", "Bearer wrong", "Basic open-sesame", "Bearer"])
def test_who_bears_no_key_is_refused(hot: Running, key: str) -> None:
    body = {"lora_name": "mine", "lora_path": "first"}
    headers = {"Authorization": key} if key else {}
    refused = hot.client.post("/v1/load_lora_adapter", json=body, headers=headers)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert names(hot) == ["toy"]


def test_a_server_without_a_key_says_how_to_have_one(server: Running) -> None:
    refused = load(server, "mine", "first")
    assert refused.status_code == 403
    assert "put one into its admin key file" in refused.json()["error"]["message"]


def test_the_adapter_that_answers_when_no_model_is_named_stays(
    toy_model: Path, toy_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("open-sesame")
    config = ServerConfig(
        weights_dir=toy_model,
        served_model_name="toy",
        adapters=(AdapterSource("first", toy_adapters[0]),),
        default_model="first",
        admin_key_file=tmp_path / "key",
    )
    with serve(config) as running:
        refused = unload(running, "first")
        assert refused.status_code == 409
        assert "a request without a model is answered by it" in refused.text
        assert running.client.post("/chat", json={"prompt": "the cat"}).status_code == 200


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
def test_a_refusal_names_the_weights_that_it_is_of(hot: Running, path: str) -> None:
    load(hot, "first", "first")
    messages = [{"role": "user", "content": "a" * 100_000}]
    body = {"model": "first", "messages": messages}
    answer = hot.client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.headers["x-kaitoflow-generation"] == "first"
