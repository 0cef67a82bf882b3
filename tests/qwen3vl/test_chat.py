"""Messages are checked, and rendered as transformers renders them; their text cannot forge control tokens."""

import copy
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from qwen3vl.chat import ChatTemplate
from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.messages import parse_messages
from qwen3vl.tokenizer import Tokenizer
from tests.support.processor_folder import CHAT_TEMPLATE, CONTROL_TOKENS, TEXT_TOKENS, make_processor_folder

# Strips texts, looks for markers in them and cuts them there, as templates of reasoning models do.
CUTTING_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if message.content is string %}
        {%- if '</think>' in message.content %}
            {{- message.content.split('</think>')[-1].lstrip('\\n') }}
        {%- else %}
            {{- message.content | trim }}
        {%- endif %}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_processor_folder(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_checkpoint(folder)


@pytest.fixture(scope="module")
def template(folder, tokenizer):
    return ChatTemplate.from_checkpoint(folder, tokenizer)


def reference(messages, source=CHAT_TEMPLATE, **variables):
    rendered, _ = render_jinja_template([copy.deepcopy(messages)], chat_template=source, add_generation_prompt=True,
                                        **variables)
    return rendered[0]


def text_of(segments, tokenizer):
    names = {id: token for token, id in tokenizer.special_tokens.items()}
    return "".join(segment if isinstance(segment, str) else names[segment] for segment in segments)


CONVERSATIONS = [
    [{"role": "user", "content": "How many?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "\n\nHow many? "},
     {"role": "assistant", "content": "Two."}, {"role": "user", "content": [{"type": "text", "text": "Sure?"}]}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "video"},
                                  {"type": "image"}]}],
    [{"role": "user", "content": []}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "{{ messages }} {% raise %} <b>&amp;</b> \U0001f642"}],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("source", [CHAT_TEMPLATE, CUTTING_TEMPLATE])
def test_prompts_equal_the_reference(tokenizer, messages, source):
    segments = ChatTemplate(source, tokenizer).render(parse_messages(messages))
    assert text_of(segments, tokenizer) == reference(messages, source)
    assert tokenizer.encode_segments(segments) == tokenizer.encode(reference(messages, source))


ORDINARY = st.text(max_size=30) | st.lists(st.sampled_from(["\n", " ", "<", "|", ">", "im_end", "</think>", "é", "圆",
                                                            "us", "er", ".", "\ue000", *TEXT_TOKENS])).map("".join)
ORDINARY = ORDINARY.filter(lambda text: not any(token in text for token in CONTROL_TOKENS))


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(ORDINARY, min_size=1, max_size=4), source=st.sampled_from([CHAT_TEMPLATE, CUTTING_TEMPLATE]))
@example(["a <", " b"], CHAT_TEMPLATE)
def test_ordinary_text_is_tokenised_like_the_reference(tokenizer, texts, source):
    """One text a message: texts without a gap between them could form a control token, which the reference obeys."""
    messages = [{"role": "user", "content": text} for text in texts]
    segments = ChatTemplate(source, tokenizer).render(parse_messages(messages))
    assert tokenizer.encode_segments(segments) == tokenizer.encode(reference(messages, source))


HOSTILE = st.lists(st.sampled_from([*CONTROL_TOKENS, "<", "<|", "<|im_", "<|im_end", "|>", ">", "end|>", "|im_end|>",
                                    " ", "\n", "x", "<|image_", "pad|>", "</think>", "\ue000", "\ue001"]),
                   max_size=8).map("".join)


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=5), source=st.sampled_from([CHAT_TEMPLATE, CUTTING_TEMPLATE]),
       parts=st.booleans())
@example(["<|im_", "end|>"], CHAT_TEMPLATE, True)
@example(["<|im_ ", "\nend|>"], CUTTING_TEMPLATE, True)
@example(["<", "", "|im_end|>"], CUTTING_TEMPLATE, True)
def test_text_forges_no_control_token(tokenizer, texts, source, parts):
    """Whatever the texts say, the control tokens are those of the same conversation with harmless texts."""
    def conversation(texts):
        if parts:
            return parse_messages([{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}])
        return parse_messages([{"role": "user", "content": text} for text in texts])

    template = ChatTemplate(source, tokenizer)
    segments = template.render(conversation(texts))
    harmless = template.render(conversation(["x"] * len(texts)))
    controls = [segment for segment in segments if isinstance(segment, int)]
    assert controls == [segment for segment in harmless if isinstance(segment, int)]
    ids = tokenizer.encode_segments(segments)
    assert [id for id in ids if id in tokenizer.special_tokens.values()] == controls


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=4))
def test_hostile_text_keeps_its_characters(template, tokenizer, texts):
    parts = [{"type": "text", "text": text} for text in texts]
    segments = template.render(parse_messages([{"role": "user", "content": parts}]))
    expected = "<|im_start|>user\n" + "".join(texts) + "<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(segments, tokenizer) == expected


def test_text_that_uses_every_stand_in(template):
    everything = "".join(map(chr, range(0xE000, 0xF900)))
    with pytest.raises(InvalidRequest, match="use every character from U\\+E000"):
        template.render(parse_messages([{"role": "user", "content": everything}]))


# -- templates


def test_a_template_may_refuse(tokenizer):
    template = ChatTemplate("{{ raise_exception('no system message, please') }}", tokenizer)
    with pytest.raises(InvalidRequest, match="chat template refuses the messages: no system message, please"):
        template.render(parse_messages(CONVERSATIONS[0]))


@pytest.mark.parametrize("source", ["{{ messages[7].content }}", "{{ messages[0].content.missing.field }}",
                                    "{{ messages.append(1) }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"])
def test_a_template_that_fails_or_escapes(tokenizer, source):
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        ChatTemplate(source, tokenizer).render(parse_messages(CONVERSATIONS[0]))


def test_what_templates_may_use(tokenizer):
    source = ("{{ bos_token }}{{ [messages[0].role, '<ä>'] | tojson }}{% for i in range(9) %}{% if i > 2 %}{% break %}"
              "{% endif %}{{ i }}{% endfor %}{{ strftime_now('%Y') | length }}{{ tools is none }}")
    template = ChatTemplate(source, tokenizer, {"bos_token": "<|endoftext|>"})
    messages = CONVERSATIONS[0]
    assert text_of(template.render(parse_messages(messages)), tokenizer) == reference(
        messages, source, bos_token="<|endoftext|>") == '<|endoftext|>["user", "<ä>"]0124True'


def test_line_breaks_of_template_blocks_are_trimmed(tokenizer):
    source = "{% for message in messages %}\n  {% if true %}\nA\n  {% endif %}\n{% endfor %}\nB"
    messages = CONVERSATIONS[0]
    segments = ChatTemplate(source, tokenizer).render(parse_messages(messages))
    assert text_of(segments, tokenizer) == reference(messages, source) == "A\nB"


def test_broken_templates(tokenizer):
    with pytest.raises(CheckpointError, match="the chat template is not valid jinja"):
        ChatTemplate("{% for %}", tokenizer)


def test_where_templates_are_found(tmp_path, tokenizer):
    def rendered():
        template = ChatTemplate.from_checkpoint(tmp_path, tokenizer)
        return text_of(template.render(parse_messages(CONVERSATIONS[0])), tokenizer)

    with pytest.raises(CheckpointError, match=r"has no chat template: expected chat_template\.jinja"):
        rendered()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "chat_template": "config{{ eos_token }}{{ bos_token }}", "bos_token": None,
        "eos_token": {"content": "<|im_end|>", "special": True}}))
    assert rendered() == "config<|im_end|>"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert rendered() == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja{{ eos_token }}")
    assert rendered() == "jinja<|im_end|>"
