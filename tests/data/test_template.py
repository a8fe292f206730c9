"""Chat templates: what transformers gives, within bounds; and a template that does not show the dialogue is none."""

from __future__ import annotations

import copy
import re

import pytest
from jinja2 import TemplateError

from morlaif.data.template import TooMuch, render, rendered, template_fault

CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% generation %}{{ m.content | trim ~ '<|im_end|>\n' }}{% endgeneration %}"
    "{% set ns = namespace(last=loop.last) %}{{ '!' if ns.last and not loop.first }}"
    "{%- endfor -%}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MACROS = (
    "{% macro say(m) %}[{{ m.role|upper }}]{{ m.content.split('</think>')[-1] | tojson }}{{ caller() }}{% endmacro %}"
    "{{ bos_token }}{% for m in messages[::-1]|reverse if m.role != 'system' %}{% call say(m) %}"
    "{{ '%s;' % loop.index }}{% endcall %}{% if loop.index > 20 %}{% break %}{% endif %}{% endfor %}"
    "{% set tail %}{{ 'ab' * 3 }}{{ ['x', 'y']|join('-') }}{{ '{:>4}'.format(1) }}{% endset %}{{ tail }}"
)
DIALOGUE = [
    {"role": "system", "content": " s <b> "},
    {"role": "user", "content": "über & {{ x }}\n"},
    {"role": "assistant", "content": "<think>no</think>yes"},
    {"role": "user", "content": "\n\n?"},
]


@pytest.mark.parametrize("template", [CHATML, MACROS])
def test_it_is_what_transformers_gives(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    assert template_fault(template) is None
    for turns in (DIALOGUE, DIALOGUE[1:], DIALOGUE[1:2]):
        for add in (True, False):
            wanted = own.apply_chat_template(turns, tokenize=False, add_generation_prompt=add)
            assert rendered(own, turns, add_generation_prompt=add) == wanted
    own.chat_template = {"default": template, "other": "{{"}
    assert rendered(own, DIALOGUE, add_generation_prompt=False).startswith(wanted[:5])
    own.chat_template = {"other": template}
    with pytest.raises(TemplateError, match="'default'"):
        rendered(own, DIALOGUE, add_generation_prompt=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'x' * 9999999999 }}", "value of more than 10,000,000"),
        ("{{ [1] * 10**9 }}", "value of more than"),
        ("{{ 9 ** 10 ** 9 }}", "value of more than"),
        ("{{ 'x'|center(10 ** 9) }}", "value of more than"),
        ("{{ 'x'.ljust(10 ** 9) }}", "value of more than"),
        ("{{ '%999999999d' % 1 }}", "width"),
        ("{{ '{:>{}}'.format(1, 10 ** 9) }}", "value of more than"),
        ("{{ ('x' * 9999999).replace('x', 'y' * 9999) }}", "value of more than"),
        ("{{ ('x' * 99999)|list|join('y' * 9999) }}", "value of more than"),
        ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "value of"),
        ("{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", "value of"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "a range of more than 100,000"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "1,000,000 rounds"),
        ("{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}", "writes more than"),
        ("{% set a %}{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}", "writes more than"),
        ("{% for i in range(99999) %}{% for j in range(9) %}" + "x" * 999 + "{% endfor %}{% endfor %}", "writes more"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)  # fmt: skip
def test_what_has_no_end_is_ended(template, why):
    assert why in template_fault(template)
    with pytest.raises(TemplateError, match=why):
        render(template, DIALOGUE)
    late = "{% if messages|length > 8 %}" + template + "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert template_fault(late) is None
    with pytest.raises(TemplateError if "Recursion" in why else TooMuch, match=why):
        render(late, DIALOGUE[1:2] * 9)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("hello", r"turn 1 \(user\) not at all"),
        ("", r"turn 1 \(user\) not at all"),
        ("{{ messages[-1].content }}", r"turn 1 \(user\) not at all"),
        ("{{ messages[0].content }}{{ messages[2].content }}", r"turn 2 \(assistant\) not at all"),
        ("{% for m in messages|reverse %}{{ m.content }}{% endfor %}", r"turn 2 \(assistant\) not in its place"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", "turn 1"),
        ("{{ raise_exception('no') }}", r"refuses even a dialogue of one turn, the user's \(no\)"),
        ("{{ nosuch() }}", "refuses even.*'nosuch' is undefined"),
        ("{% include 'x' %}", "refuses even"),
        ("{% for %}", "line 1"),
    ],
)
def test_a_template_shows_each_turn_in_order(template, why):
    assert re.search(why, template_fault(template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}{{ m.content|trim|upper }}{% endfor %}",
        "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}",
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ bos_token + messages[0].content }}{% for m in messages[1:] %}{{ m['content'] }}{% endfor %}",
    ],
)
def test_what_templates_may_do(template):
    assert template_fault(template) is None
